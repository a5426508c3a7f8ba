"""Plots of the gains along training, one panel per row."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from capo.reporting.axes import Chart, Key, Scale, scale_over
from capo.reporting.plots import Z_95, Plot
from capo.studies.measure_names import CORRECT, HELD_OUT, MEAN, source_title

CSS = {MEAN: "mean", HELD_OUT: "held-out", CORRECT: "judge"}

Band = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Value, low and high, in percentage points."""


def gain_plots(rows: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """One panel per row on common axes: gains over the base in points, with 95% intervals over prompts."""
    drawn = {row["name"]: row["over_optimization"] for row in rows if row["over_optimization"]}
    if not drawn:
        return []
    bands = {
        name: {source: _band(gain) for source, gain in row["gains"].items()} for name, row in drawn.items()
    }
    xs = [step for row in drawn.values() for step in row["steps"]]
    ys = [y for row in bands.values() for lines in row.values() for line in lines for y in line]
    scales = scale_over(xs, snug=True, wanted=4), scale_over(ys, include=[0])
    return [_panel(name, row, bands[name], scales) for name, row in drawn.items()]


def _panel(name: str, row: Mapping[str, Any], bands: Mapping[str, Band], scales: tuple[Scale, Scale]) -> Plot:
    chart = Chart(*scales, "step", "points over the base")
    chart.horizontal(0.0, "half")
    steps = np.array(row["steps"], dtype=float)
    for source, (_, low, high) in bands.items():
        if (high > low).any():
            chart.band(steps, low, high, CSS[source])
    for source, (value, _, _) in bands.items():
        chart.line(steps, value, CSS[source])
        chart.points(steps[1:], value[1:], CSS[source])
    best = sorted(set(row["best_steps"]) & set(row["steps"]))
    chart.points(best, [bands[MEAN][0][row["steps"].index(step)] for step in best], "best", "star")
    keys = [Key(source_title(source), CSS[source]) for source in bands]
    keys.append(Key(f"best step, {', '.join(f'{step:,}' for step in best)}", "best", "star"))
    ends = "; ".join(f"{source_title(source)} {value[-1]:+.1f}" for source, (value, _, _) in bands.items())
    return Plot(
        name, chart.svg(f"Gains of {name} over the base by step; at the last step: {ends}"), tuple(keys)
    )


def _band(gain: Mapping[str, Sequence[float | None]]) -> Band:
    value = 100 * np.array(gain["value"], dtype=float)
    reach = 100 * Z_95 * np.array([error or 0.0 for error in gain["standard_error"]])
    return value, value - reach, value + reach
