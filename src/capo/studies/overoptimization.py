"""How far training should go: what each row gains over the base along its steps, and by whom it is told.

The rewards that are trained on may go on rising after what they stand for has begun to fall, which
held-out rewards and the judge see.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from capo.reporting.axes import Chart, Key, Scale, scale_over
from capo.reporting.forest import MEAN
from capo.reporting.plots import Plot
from capo.reporting.wording import NONE, points
from capo.training.log import Row, best_row

HELD_OUT = "Held-out rewards"
RIGHT = "Images found right"

Gains = Mapping[str, Mapping[str, list[float | None]]]
"""By who tells it, `value` over the base and `standard_error` over prompts, step by step."""

WITNESSES = {
    MEAN: ("win_rate", "standard_error", 0.5),
    HELD_OUT: ("held_out_win_rate", "held_out_standard_error", 0.5),
    RIGHT: ("judge_difference", "judge_standard_error", 0.0),
}
"""Who tells what is gained: value and standard error in `validation.jsonl`, and what is no gain."""
CSS = {MEAN: "mean", HELD_OUT: "held-out", RIGHT: "judge"}

LEAST = 3
"""Validations that make a curve."""
Z_95 = 1.96


def gains(validations: Sequence[Row]) -> Gains:
    """Win-rates less ½ and images found right less the base's, as fractions, by those that tell of them.

    A standard error that was not logged is None.
    """
    return {
        name: {
            "value": [row[value] - nothing for row in validations],
            "standard_error": [row.get(error) for row in validations],
        }
        for name, (value, error, nothing) in WITNESSES.items()
        if all(row.get(value) is not None for row in validations)
    }


def over_seeds(curves: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """A row's `curves`, one a seed, as one: `steps`, their `gains`, and the `best_steps` of the seeds.

    Over the validations that all seeds have, from the base on, or from what a further round starts from;
    None when these are few. Standard errors are averaged too: seeds share their prompts, or nearly, so that
    more seeds do not make them smaller.
    """
    if not curves or (shortest := min(len(curve["steps"]) for curve in curves)) < LEAST:
        return None
    begin = [] if 0 in curves[0]["steps"] else [0]
    told = [name for name in WITNESSES if all(name in curve["gains"] for curve in curves)]
    return {
        "steps": begin + curves[0]["steps"][:shortest],
        "best_steps": [_best(curve) for curve in curves],
        "gains": {
            name: {
                key: [*map(float, begin), *_means([curve["gains"][name][key][:shortest] for curve in curves])]
                for key in ("value", "standard_error")
            }
            for name in told
        },
    }


def panels(rows: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """A panel a row, all on the same axes: gains over the base in points, with 95% intervals over prompts."""
    drawn = {row["name"]: row["over_optimization"] for row in rows if row["over_optimization"]}
    if not drawn:
        return []
    bands = {name: {who: _band(told) for who, told in row["gains"].items()} for name, row in drawn.items()}
    xs = [step for row in drawn.values() for step in row["steps"]]
    ys = [y for row in bands.values() for lines in row.values() for line in lines for y in line]
    scales = scale_over(xs, snug=True, wanted=4), scale_over(ys, include=[0])
    return [_panel(name, row, bands[name], scales) for name, row in drawn.items()]


def best_and_last(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], Iterator[list[str]]]:
    """A table's head, and a line a row: what its seeds gain at their own best steps, and at their last."""
    drawn = [row for row in rows if row["over_optimization"]]
    told = [name for name in WITNESSES if any(name in row["over_optimization"]["gains"] for row in drawn)]

    def line(row: Mapping[str, Any]) -> list[str]:
        curves, found = row["curves"], row["over_optimization"]
        steps = [found["best_steps"], sorted({curve["steps"][-1] for curve in curves})]
        cells = [_own(curves, name) if name in found["gains"] else NONE for name in told]
        return [row["name"], *(", ".join(map(str, each)) for each in steps), *cells]

    return ["row", "best step", "last", *told], map(line, drawn)


def _panel(
    name: str, row: Mapping[str, Any], bands: Mapping[str, Sequence[np.ndarray]], scales: tuple[Scale, Scale]
) -> Plot:
    chart = Chart(*scales, "step", "points over the base")
    chart.horizontal(0.0, "half")
    steps = np.array(row["steps"], dtype=float)
    for who, (_, low, high) in bands.items():
        if (high > low).any():
            chart.band(steps, low, high, CSS[who])
    for who, (value, _, _) in bands.items():
        chart.line(steps, value, CSS[who])
        chart.points(steps[1:], value[1:], CSS[who])
    best = sorted(set(row["best_steps"]) & set(row["steps"]))
    chart.points(best, [bands[MEAN][0][row["steps"].index(step)] for step in best], "best", "star")
    keys = [Key(who, CSS[who]) for who in bands]
    keys.append(Key(f"best step, {', '.join(f'{step:,}' for step in best)}", "best", "star"))
    ends = "; ".join(f"{who} {value[-1]:+.1f}" for who, (value, _, _) in bands.items())
    return Plot(
        name, chart.svg(f"Gains of {name} over the base along its steps, at the last: {ends}"), tuple(keys)
    )


def _band(told: Mapping[str, Sequence[float | None]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Value, low and high, in points."""
    value = 100 * np.array(told["value"], dtype=float)
    reach = 100 * Z_95 * np.array([error or 0.0 for error in told["standard_error"]])
    return value, value - reach, value + reach


def _own(curves: Sequence[Mapping[str, Any]], name: str) -> str:
    """Means over seeds, each at its own best step and at its own last: `+20.0 → +15.0`."""
    seeds = [(curve["gains"][name]["value"], curve["steps"].index(_best(curve))) for curve in curves]
    best, last = np.mean([values[at] for values, at in seeds]), np.mean([values[-1] for values, _ in seeds])
    return f"{points(float(best))} → {points(float(last))}"


def _best(curve: Mapping[str, Any]) -> int:
    rates = curve["measures"][MEAN]
    best = best_row([{"step": s, "win_rate": r} for s, r in zip(curve["steps"], rates, strict=True)])
    assert best is not None
    return int(best["step"])


def _means(seeds: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Step by step; None where a seed has none."""
    columns = zip(*seeds, strict=True)
    return [None if None in column else float(np.mean(column)) for column in columns]
