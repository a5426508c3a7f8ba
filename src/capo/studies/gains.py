"""Gains over the base along training, by training rewards, held-out rewards and the judge.

Training rewards may keep rising after the quality they stand for has started to fall (over-optimization).
Held-out rewards and the judge show that.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from capo.reporting.wording import NONE, points
from capo.studies.measure_names import CORRECT, HELD_OUT, MEAN, source_title
from capo.training.log import Row, best_row

Gains = Mapping[str, Mapping[str, list[float | None]]]
"""By source: `value` over the base and its `standard_error` over prompts, step by step."""

SOURCES = {
    MEAN: ("win_rate", "standard_error", 0.5),
    HELD_OUT: ("held_out_win_rate", "held_out_standard_error", 0.5),
    CORRECT: ("judge_difference", "judge_standard_error", 0.0),
}
"""By source: fields of `validation.jsonl` for value and standard error, and the value without any gain."""

MIN_VALIDATIONS = 3
"""Fewest validations that make a curve."""


def gains_of(validations: Sequence[Row]) -> Gains:
    """Return win-rates minus ½, and images judged correct minus the base's, as fractions.

    A standard error that was not logged is None.
    """
    return {
        name: {
            "value": [row[value] - no_gain for row in validations],
            "standard_error": [row.get(error) for row in validations],
        }
        for name, (value, error, no_gain) in SOURCES.items()
        if all(row.get(value) is not None for row in validations)
    }


def mean_gains(curves: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Average a row's `curves` over seeds: `steps`, `gains`, and the `best_steps` of the seeds.

    Covers the validations that all seeds have, starting at the base (or at the start of a further round).
    None if there are too few. Standard errors are averaged too: seeds share most prompts, so more seeds do
    not reduce them.
    """
    if not curves or (shortest := min(len(curve["steps"]) for curve in curves)) < MIN_VALIDATIONS:
        return None
    first = [] if 0 in curves[0]["steps"] else [0]
    known = [name for name in SOURCES if all(name in curve["gains"] for curve in curves)]
    return {
        "steps": first + curves[0]["steps"][:shortest],
        "best_steps": [_best_step(curve) for curve in curves],
        "gains": {
            name: {
                key: [*map(float, first), *_means([curve["gains"][name][key][:shortest] for curve in curves])]
                for key in ("value", "standard_error")
            }
            for name in known
        },
    }


def best_and_last(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], Iterator[list[str]]]:
    """Return the head of a table, and one line per row: gains at the seeds' best and last steps."""
    with_gains = [row for row in rows if row["over_optimization"]]
    known = [name for name in SOURCES if any(name in row["over_optimization"]["gains"] for row in with_gains)]

    def line(row: Mapping[str, Any]) -> list[str]:
        curves, averaged = row["curves"], row["over_optimization"]
        steps = [averaged["best_steps"], sorted({curve["steps"][-1] for curve in curves})]
        cells = [_best_to_last(curves, name) if name in averaged["gains"] else NONE for name in known]
        return [row["name"], *(", ".join(map(str, numbers)) for numbers in steps), *cells]

    return ["row", "best step", "last", *(source_title(name) for name in known)], map(line, with_gains)


def _best_to_last(curves: Sequence[Mapping[str, Any]], name: str) -> str:
    """Means over seeds at their best and at their last step: `+20.0 → +15.0`."""
    seeds = [(curve["gains"][name]["value"], curve["steps"].index(_best_step(curve))) for curve in curves]
    best, last = np.mean([values[at] for values, at in seeds]), np.mean([values[-1] for values, _ in seeds])
    return f"{points(float(best))} → {points(float(last))}"


def _best_step(curve: Mapping[str, Any]) -> int:
    rates = curve["measures"][MEAN]
    best = best_row([{"step": s, "win_rate": r} for s, r in zip(curve["steps"], rates, strict=True)])
    assert best is not None
    return int(best["step"])


def _means(seeds: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Mean of every step; None where a seed has none."""
    columns = zip(*seeds, strict=True)
    return [None if None in column else float(np.mean(column)) for column in columns]
