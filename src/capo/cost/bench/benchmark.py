"""Run the measurement of one part and collect its rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from capo.cost.bench import Part
from capo.cost.bench.generation_speed import bench_decode, bench_generate
from capo.cost.bench.measure import Row
from capo.cost.bench.scoring_speed import bench_pairs, bench_score
from capo.cost.bench.subject import Subject, subject
from capo.cost.bench.training_speed import bench_train
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
    rows: Callable[[Subject, int], Iterator[Row]]
    """Yields the rows for a subject and a number of repetitions."""


MEASUREMENTS = {
    Part.TRAIN: Measurement("pairs", bench_train),
    Part.GENERATE: Measurement("images", bench_generate),
    Part.DECODE: Measurement("images", bench_decode),
    Part.SCORE: Measurement("images", bench_score),
    Part.PAIRS: Measurement("prompts", bench_pairs),
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
    part: Part, architecture: str | None, recipe: str | None, overrides: Sequence[str], repeats: int
) -> Benchmark:
    """Measure a part of the pipeline for the model that `capo.cost.bench.subject.subject` selects.

    Raises `ValueError` for an unknown architecture and `RecipeError` for an invalid recipe.
    """
    measurement, rows = MEASUREMENTS[part], []
    with subject(architecture, recipe, overrides) as measured:
        for row in measurement.rows(measured, repeats):
            say(f"{row.name}: " + ("out of memory" if row.seconds is None else f"{row.seconds:.3g} s"))
            rows.append(row)
        settings = {
            name: getattr(measured.recipe, name).model_dump(mode="json") for name in RECORDED_SECTIONS
        }
        device = device_name(select_device(measured.recipe.engine))
    return Benchmark(
        part.value,
        measured.name,
        measurement.unit,
        device,
        torch.get_num_threads(),
        versions(),
        settings,
        rows,
    )


def _ratio(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None else value / base
