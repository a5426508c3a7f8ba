"""The plots of the report: histograms, scatter plots, and curves over training steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from capo.pairing.pair_table import PairTable
from capo.reporting import wording
from capo.reporting.axes import Chart, Key, Scale, scale_over

BINS, COARSE_BINS = 30, 20
CURVE_POINTS = 64
LABEL = 40
"""Maximum characters of an axis label."""

Z_95 = 1.96
"""Standard errors on either side of a value in a 95% interval."""

SERIES = ("s1", "s2", "s3", "s4", "s5", "s6")

Steps = Sequence[float]


@dataclass(frozen=True)
class Plot:
    """A chart with its title, legend and note."""

    title: str
    svg: Markup
    keys: tuple[Key, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """A quantity over training steps."""

    label: str
    css: str
    steps: np.ndarray
    values: np.ndarray
    errors: np.ndarray | None = None
    """standard errors of the values, NaN where unknown"""

    @property
    def bars(self) -> tuple[np.ndarray, np.ndarray]:
        """The bounds of 95% intervals; the values themselves where the error is unknown."""
        reach = 0 if self.errors is None else Z_95 * np.nan_to_num(self.errors)
        return self.values - reach, self.values + reach


def raw_histogram(name: str, scores: np.ndarray) -> Plot:
    """Draw a reward's raw scores over all samples (Fig. 6, top row)."""
    finite = scores[np.isfinite(scores)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    chart = _histogram(finite, np.linspace(low, high, BINS + 1), "raw score", "raw")
    mean = float(finite.mean()) if finite.size else float("nan")
    note = f"mean {wording.number(mean)}, standard deviation {wording.number(_std(finite))}"
    return Plot("Raw", chart.svg(f"Histogram of raw {name} scores: {note}"), note=note)


def shifted_histogram(name: str, base: np.ndarray, tuned: np.ndarray) -> Plot:
    """Draw a reward's raw scores of the base's images, and as a line those of the tuned model's."""
    known = [scores[np.isfinite(scores)] for scores in (base, tuned)]
    values = np.concatenate(known)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, COARSE_BINS + 1)
    shares = [np.histogram(scores, edges)[0] / max(1, len(scores)) for scores in known]
    y = scale_over([0.0, float(max(map(np.max, shares))) or 1.0], percent=True, wanted=4)
    chart = Chart(scale_over(edges, snug=True), y, "raw score", "share of images")
    chart.bars(edges, shares[0], "raw")
    steps = np.concatenate([[0.0], np.repeat(shares[1], 2), [0.0]])
    chart.line(np.repeat(edges, 2), steps, "tuned")
    means = [wording.number(float(scores.mean()) if scores.size else None) for scores in known]
    note = f"mean {means[0]} → {means[1]}"
    described = f"Histogram of {name} scores: base images have mean {means[0]}, tuned images {means[1]}"
    return Plot(name, chart.svg(described), note=note)


SHIFT_KEYS = (Key("base", "raw", "bar"), Key("tuned", "tuned"))


def calibrated_histogram(name: str, calibrated: np.ndarray) -> Plot:
    """Draw a reward's calibrated values, centered on one half (Fig. 6, bottom row)."""
    finite = calibrated[np.isfinite(calibrated)]
    chart = _histogram(finite, np.linspace(0, 1, BINS + 1), "calibrated reward", "calibrated")
    chart.vertical(0.5, "half")
    note = f"mean 0.5 by construction, standard deviation {wording.number(_std(finite), 3)}"
    return Plot("Calibrated", chart.svg(f"Histogram of calibrated {name} rewards: {note}"), note=note)


def delta_histogram(deltas: np.ndarray) -> Plot:
    """Draw the targets ΔR over all chosen × rejected pairs."""
    low, high = (min(0.0, float(deltas.min())), max(0.05, float(deltas.max()))) if deltas.size else (0.0, 1.0)
    width = (high - low) / BINS
    edges = np.arange(np.floor(low / width), np.ceil(high / width) + 1) * width  # zero is an edge
    chart = _histogram(deltas, edges, "ΔR of a pair", "calibrated")
    chart.vertical(0.0, "half")
    mean = float(deltas.mean()) if deltas.size else float("nan")
    note = f"mean {wording.number(mean, 3)}"
    return Plot("Targets of the pairs", chart.svg(f"Histogram of ΔR: {note}"), note=note)


def reward_scatter(pairs: PairTable, prompt_id: str, first: int, second: int) -> Plot:
    """Draw the samples of one prompt by two calibrated rewards, with chosen and rejected ones marked."""
    rows = pairs.rows(prompt_id)
    xs, ys = pairs.calibrated[rows, first], pairs.calibrated[rows, second]
    here = np.isfinite(xs) & np.isfinite(ys)
    chosen, rejected = pairs.chosen[rows] & here, pairs.rejected[rows] & here
    rest = here & ~chosen & ~rejected
    names = pairs.rewards[first], pairs.rewards[second]
    labels = [wording.excerpt(name, LABEL) for name in names]
    chart = Chart(_spread_scale(xs[here]), _spread_scale(ys[here]), labels[0], labels[1])
    for mask, css, shape in (
        (rest, "rest", "circle"),
        (rejected, "rejected", "square"),
        (chosen, "chosen", "circle"),
    ):
        chart.points(xs[mask], ys[mask], css, shape)
    description = (
        f"Calibrated {names[0]} against {names[1]} of {int(here.sum())} samples: "
        f"{int(chosen.sum())} chosen, {int(rejected.sum())} rejected"
    )
    return Plot(f"{names[0]} and {names[1]}", chart.svg(description))


SCATTER_KEYS = (
    Key("chosen", "chosen", "circle"),
    Key("rejected", "rejected", "square"),
    Key("neither", "rest", "circle"),
)


@dataclass(frozen=True)
class ValueAxis:
    """The vertical axis of curves: its label, values that it must include, and a reference line."""

    label: str
    include: tuple[float, ...] = ()
    reference: float | None = None
    percent: bool = False


def curves(title: str, lines: Sequence[Curve], axis: ValueAxis, note: str = "") -> Plot | None:
    """Draw quantities over training steps, or return None if there is no data.

    Long curves are averaged over intervals of equal length, with the range shaded.
    """
    drawn = [(line, _intervals(line.steps, line.values)) for line in lines if line.values.size]
    if not drawn:
        return None
    steps = np.concatenate([interval[0] for _, interval in drawn])
    extent = [v for _, (_, mean, low, high) in drawn for v in (*_inner(low, high), *mean)]
    extent += [v for line, _ in drawn if line.errors is not None for v in np.ravel(line.bars)]
    y = scale_over(extent, include=axis.include, percent=axis.percent)
    chart = Chart(scale_over(steps, include=[0], snug=True), y, "step", axis.label)
    if axis.reference is not None:
        chart.horizontal(axis.reference, "half")
    for line, (at, _, low, high) in drawn:
        if (high > low).any():
            chart.band(at, np.clip(low, y.low, y.high), np.clip(high, y.low, y.high), line.css)
    for line, (at, mean, _, _) in drawn:
        chart.line(at, mean, line.css)
        if len(at) <= 12:
            chart.points(at, mean, line.css)
        if line.errors is not None and len(at) == len(line.steps):
            low, high = np.clip(line.bars, y.low, y.high)
            chart.error_bars(line.steps, low, high, line.css)
    last = "; ".join(f"{line.label} ends at {wording.number(float(line.values[-1]), 3)}" for line, _ in drawn)
    keys = tuple(Key(line.label, line.css) for line, _ in drawn) if len(drawn) > 1 else ()
    return Plot(title, chart.svg(f"{title} over training steps: {last}"), keys, note)


def validation(mean: Curve, rewards: Sequence[Curve], best_step: int | None) -> Plot | None:
    """Draw win-rates on the validation prompts, with the best checkpoint marked; None without data."""
    lines = [line for line in (*rewards, mean) if line.values.size]
    if not lines:
        return None
    values = np.concatenate([line.values for line in lines])
    y = scale_over([*values, *np.clip(mean.bars, 0, 1).ravel()], include=[0.5], percent=True)
    steps = np.concatenate([line.steps for line in lines])
    chart = Chart(scale_over(steps, include=[0], snug=True), y, "step", "win-rate over the base")
    chart.horizontal(0.5, "half")
    for line in lines:
        chart.line(line.steps, line.values, line.css)
        chart.points(line.steps, line.values, line.css)
    low, high = np.clip(mean.bars, 0, 1)
    chart.error_bars(mean.steps, low, high, mean.css)
    keys = [Key(line.label, line.css) for line in (*lines[-1:], *lines[:-1])]
    best = mean.values[mean.steps == best_step] if best_step is not None else np.empty(0)
    if best.size:
        chart.points([float(best_step or 0)], best[:1], "best", "star")
        keys.append(Key(f"best checkpoint, step {best_step:,}", "best", "star"))
    description = "Win-rates on the validation prompts over training steps" + (
        f"; best at step {best_step} with {wording.percent(float(best[0]))}" if best.size else ""
    )
    return Plot("Validation win-rate", chart.svg(description), tuple(keys))


def line_of(
    rows: Sequence[Mapping[str, Any]], key: str, label: str, css: str, error: str | None = None
) -> Curve:
    """Return the finite values of `key` in rows of metrics, and their standard errors `error`."""
    known = [row for row in rows if isinstance(row.get(key), int | float) and np.isfinite(row[key])]
    steps, values = (np.array([float(row[name]) for row in known]) for name in ("step", key))
    errors = None if error is None else np.array([row.get(error) for row in known], dtype=np.float64)
    return Curve(label, css, steps, values, errors)


def _histogram(values: np.ndarray, edges: np.ndarray, x_label: str, css: str) -> Chart:
    counts, _ = np.histogram(values, edges)
    shares = counts / max(1, counts.sum())
    y = scale_over([0.0, float(shares.max()) or 1.0], percent=True, wanted=4)
    chart = Chart(scale_over(edges, snug=True), y, x_label, "share")
    chart.bars(edges, shares, css)
    return chart


def _spread_scale(values: np.ndarray) -> Scale:
    """Return an axis that fits calibrated rewards tightly and always includes one half."""
    return scale_over(values, include=[0.45, 0.55], wanted=4)


def _intervals(
    steps: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return step, mean, minimum and maximum of at most `CURVE_POINTS` intervals of equal length."""
    cuts = np.arange(0, len(values), -(-len(values) // CURVE_POINTS))[1:]
    groups = list(zip(np.split(steps, cuts), np.split(values, cuts), strict=True))
    return (
        np.array([s.mean() for s, _ in groups]),
        np.array([v.mean() for _, v in groups]),
        np.array([v.min() for _, v in groups]),
        np.array([v.max() for _, v in groups]),
    )


def _inner(low: np.ndarray, high: np.ndarray) -> tuple[float, float]:
    """Return bounds that hold most of a band, so that one outlier does not flatten the curve."""
    return float(np.quantile(low, 0.03)), float(np.quantile(high, 0.97))


def _std(values: np.ndarray) -> float:
    return float(values.std()) if values.size else float("nan")
