"""Plots of a front: win-rates by every two training rewards."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from capo.reporting.axes import Chart, Key, Scale, scale_over
from capo.reporting.plots import SERIES, Plot
from capo.reporting.wording import percent

Estimates = Mapping[str, Mapping[str, float]]
"""Estimates of one row by reward: `value`, `low`, `high`."""

EDGE = 0.05
"""Margin at the ends of an axis, relative to its length."""

SOUP = SERIES[0]
DOMINATED = f"{SOUP} open"


def front_plots(front: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """One panel per pair of rewards for a front in `results.json`; `rows` have the estimates."""
    estimates = {row["name"]: row["measures"] for row in rows}
    return [_panel(front, estimates, x, y) for x, y in itertools.combinations(front["rewards"], 2)]


def front_keys(front: Mapping[str, Any]) -> list[Key]:
    """The legend of all panels."""
    dominated = any(point["dominated_by"] for point in front["points"])
    keys = [Key("soups", SOUP, "circle")] + [Key("dominated soups", DOMINATED, "circle")] * dominated
    return keys + [Key(row, css, shape) for row, (css, shape) in _marks(front).items()]


def _panel(front: Mapping[str, Any], estimates: Mapping[str, Estimates], x: str, y: str) -> Plot:
    marks = _marks(front)
    soups = {p["row"]: p["dominated_by"] for p in front["points"] if p["row"] not in marks}
    drawn = {row: (DOMINATED if by else SOUP, "circle") for row, by in soups.items()} | marks
    across, along = ({row: estimates[row][reward] for row in drawn} for reward in (x, y))
    chart = Chart(_scale(across.values()), _scale(along.values()), x, y)
    chart.vertical(front["reference"], "half")
    chart.horizontal(front["reference"], "half")
    for first, second in _neighbors(front):
        ends = [[of[row]["value"] for row in (first, second)] for of in (across, along)]
        chart.line(ends[0], ends[1], "mesh")
    for row, (css, _) in drawn.items():
        h, v = across[row], along[row]
        chart.line([h["low"], h["high"]], [v["value"]] * 2, f"{css} whisker")
        chart.line([h["value"]] * 2, [v["low"], v["high"]], f"{css} whisker")
    for row, (css, shape) in drawn.items():
        chart.points([across[row]["value"]], [along[row]["value"]], css, shape)
    values = "; ".join(
        f"{row} {percent(across[row]['value'])} and {percent(along[row]['value'])}" for row in drawn
    )
    return Plot(f"{x} and {y}", chart.svg(f"Win-rates by {x} and by {y}: {values}"))


def _marks(front: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Style and shape of the ends and of rows that are not on the front; soups are circles."""
    on_front = {point["row"] for point in front["points"]}
    ends = [row for row in front["of"] if row in on_front]
    series = itertools.cycle(SERIES[1:])
    marks = {row: (next(series), "square") for row in ends}
    return marks | {other["row"]: (next(series), "star") for other in front["others"]}


def _neighbors(front: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs of points whose weights differ by one step between two policies."""
    return [
        (first["row"], second["row"])
        for first, second in itertools.combinations(front["points"], 2)
        if sum(abs(a - b) for a, b in zip(first["weights"], second["weights"], strict=True))
        < 2.5 * front["step"]
    ]


def _scale(estimates: Iterable[Mapping[str, float]]) -> Scale:
    values = [0.5, *(estimate[end] for estimate in estimates for end in ("low", "high"))]
    margin = EDGE * (max(values) - min(values))
    scale = scale_over([min(values) - margin, max(values) + margin], percent=True, snug=True, wanted=6)
    # The label of a tick at the very end would be cut off.
    return replace(scale, ticks=tuple(tick for tick in scale.ticks if tick < scale.high - margin / 2))
