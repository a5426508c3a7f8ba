"""Run the measurement of one part and collect its rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from capo.cost.bench import BenchPart
from capo.cost.bench.generation_speed import decoding_cases, generation_cases
from capo.cost.bench.measure import Case, Row, measure
from capo.cost.bench.scoring_speed import pair_cases, score_cases
from capo.cost.bench.subject import Subject, subject
from capo.cost.bench.training_speed import training_cases
from capo.engine.device import device_name, select_device
from capo.engine.progress import say
from capo.store.manifest import versions

BASELINE = "conventional"
"""Name of the row that others are compared with, if a benchmark has one; it comes first."""

RECORDED_SECTIONS = ("model", "generate", "pairs", "train")


@dataclass(frozen=True)
class Measurement:
    """How a part is measured."""

    unit: str
    cases: Callable[[Subject], list[Case]]


MEASUREMENTS = {
    BenchPart.TRAIN: Measurement("pairs", training_cases),
    BenchPart.GENERATE: Measurement("images", generation_cases),
    BenchPart.DECODE: Measurement("images", decoding_cases),
    BenchPart.SCORE: Measurement("images", score_cases),
    BenchPart.PAIRS: Measurement("prompts", pair_cases),
}


@dataclass(frozen=True)
class Benchmark:
    """The measured part, device and settings, with the results."""

    part: str
    subject: str
    unit: str
    device: str
    threads: int
    versions: dict[str, str]
    settings: dict[str, Any]
    """The recipe sections that determine the work."""
    rows: list[Row]

    def ratios(self, row: Row) -> dict[str, float | None]:
        """`speed` and `memory` of a row over those of the conventional one; None without one."""
        base = self.rows[0] if self.rows[0].name == BASELINE else Row("none")
        return {
            "speed": _ratio(row.per_second, base.per_second),
            "memory": _ratio(row.peak_bytes, base.peak_bytes),
        }


def bench(
    part: BenchPart,
    architecture: str | None,
    recipe: str | None,
    overrides: Sequence[str],
    repeats: int,
    wanted: Sequence[str] = (),
) -> Iterator[Benchmark]:
    """Measure a part of the pipeline for the model that `capo.cost.bench.subject.subject` selects.

    Yields the results after every case. Measures only the cases called `wanted`, or all of them. Raises
    `ValueError` for an unknown architecture or case, and `RecipeError` for an invalid recipe.
    """
    measurement, rows = MEASUREMENTS[part], []
    with subject(architecture, recipe, overrides) as measured:
        cases = _chosen(measurement.cases(measured), wanted)
        settings = {
            name: getattr(measured.recipe, name).model_dump(mode="json") for name in RECORDED_SECTIONS
        }
        device = device_name(select_device(measured.recipe.engine))
        for case in cases:
            row = measure(case, repeats)
            say(f"{row.name}: " + ("out of memory" if row.seconds is None else f"{row.seconds:.3g} s"))
            rows.append(row)
            yield Benchmark(
                part.value,
                measured.name,
                measurement.unit,
                device,
                torch.get_num_threads(),
                versions(),
                settings,
                list(rows),
            )


def _chosen(cases: list[Case], wanted: Sequence[str]) -> list[Case]:
    names = [case.name for case in cases]
    for name in wanted:
        if name not in names:
            raise ValueError(f"--case: unknown case {name!r}; this part has: {'; '.join(names)}")
    return [case for case in cases if case.name in wanted or not wanted]


def _ratio(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None else value / base
