"""The page of a sweep: win-rates over β, and over steps."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from capo.reporting.axes import Chart, Key, Scale, scale_over
from capo.reporting.plots import SERIES, Plot
from capo.reporting.templating import environment
from capo.store.manifest import versions

Estimates = Sequence[Mapping[str, float | None]]
"""Win-rates with their standard errors, by value of β."""

WITH_ERRORS = ("mean", "held-out")
"""Classes of the lines that have error bars."""


@dataclass(frozen=True)
class _BetaScale(Scale):
    """A logarithmic axis in powers of two, with a tick at every value of β."""

    def label(self, tick: float) -> str:
        return f"{2**tick:.4g}"


def render_sweep(results: Mapping[str, Any]) -> str:
    """Render the page from `results.json`."""
    page = environment().get_template("tune.html.j2")
    return page.render(
        results=results, plots=[_over_beta(results), _over_steps(results)], versions=versions()
    )


def _over_beta(results: Mapping[str, Any]) -> Plot:
    """Draw the best win-rates over β, with a standard error on either side."""
    values = [value for value in results["values"] if value["best"]]
    at = [math.log2(value["beta"]) for value in values]
    lines: dict[str, tuple[str, Estimates]] = {
        "mean of the training rewards": ("mean", [value["best"]["win_rate"] for value in values])
    }
    if values[0]["best"]["held_out"]:
        lines["held-out rewards"] = ("held-out", [value["best"]["held_out"] for value in values])
    trained = [name for name, use in results["rewards"].items() if use == "train"]
    for name, css in zip(trained if len(trained) > 1 else [], itertools.cycle(SERIES), strict=False):
        lines[name] = css, [value["best"]["rewards"][name] for value in values]
    rates = [rate for css, line in lines.values() for rate in _extent(css, line)]
    ticks = tuple(at)
    x = _BetaScale(min(at) - 0.3, max(at) + 0.3, ticks)
    chart = Chart(x, scale_over(rates, include=[0.5], percent=True), "β", "win-rate over the base")
    chart.horizontal(0.5, "half")
    for css, line in reversed(lines.values()):
        middle = [estimate["value"] or 0.0 for estimate in line]
        chart.line(at, middle, css)
        chart.points(at, middle, css)
        if css in WITH_ERRORS:
            chart.error_bars(at, *_bounds(line), css)
    keys = [Key(name, css) for name, (css, _) in lines.items()]
    if results["chosen"] is not None:
        rate = next(v["best"]["win_rate"]["value"] for v in values if v["beta"] == results["chosen"])
        chart.points([math.log2(results["chosen"])], [rate], "best", "star")
        keys.append(Key("chosen", "best", "star"))
    described = ", ".join(f"β {v['beta']:g}: {100 * v['best']['win_rate']['value']:.1f}%" for v in values)
    return Plot("By β", chart.svg(f"Validation win-rate by β: {described}"), tuple(keys))


def _extent(css: str, line: Estimates) -> list[float]:
    """Return all rates that a line draws, the ends of its error bars included."""
    middle = [estimate["value"] or 0.0 for estimate in line]
    return [*middle, *itertools.chain(*_bounds(line))] if css in WITH_ERRORS else middle


def _bounds(line: Estimates) -> tuple[list[float], list[float]]:
    """Return the rates less and plus a standard error, within 0 and 1."""
    known = [(estimate["value"] or 0.0, estimate["error"] or 0.0) for estimate in line]
    return [max(0.0, rate - error) for rate, error in known], [
        min(1.0, rate + error) for rate, error in known
    ]


def _over_steps(results: Mapping[str, Any]) -> Plot:
    """Draw the mean win-rate of every value over the training steps, from the base."""
    courses: dict[float, tuple[Sequence[int], Sequence[float]]] = {
        value["beta"]: (
            [0, *(row["step"] for row in value["course"])],
            [0.5, *(row["win_rate"]["value"] for row in value["course"])],
        )
        for value in results["values"]
    }
    steps = [step for course, _ in courses.values() for step in course]
    rates = [rate for _, course in courses.values() for rate in course]
    scales = scale_over(steps, snug=True, wanted=4), scale_over(rates, include=[0.5], percent=True)
    chart = Chart(*scales, "step", "win-rate over the base")
    chart.horizontal(0.5, "half")
    keys = []
    for (beta, (xs, ys)), css in zip(courses.items(), itertools.cycle(SERIES), strict=False):
        chart.line(xs, ys, css)
        chart.points(xs[1:], ys[1:], css)
        keys.append(Key(f"β {beta:g}", css))
    ends = ", ".join(f"β {beta:g} ends at {100 * ys[-1]:.1f}%" for beta, (_, ys) in courses.items())
    return Plot("Along training", chart.svg(f"Validation win-rate over steps: {ends}"), tuple(keys))
