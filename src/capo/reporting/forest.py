"""Forest plots: intervals on a common axis, drawn row by row inside a table.

Positions are percentages of the cell width, so that rows fit any screen while text and marks keep their size.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from capo.reporting.axes import Key, Scale, scale_over
from capo.reporting.results_schema import JudgeCategory, JudgeResult, Results

Rate = tuple[float, float, float]
"""value, low, high"""


@dataclass(frozen=True)
class ForestRow:
    """A row: its plot and the plotted numbers, in [0, 1] except for the raw means."""

    name: str
    kind: str
    plot: Markup
    rate: Rate
    null: float | None
    mean_base: float | None = None
    mean_tuned: float | None = None


@dataclass(frozen=True)
class JudgeRow:
    """A category, or all prompts: the share of accepted images per model, and bounds of the difference."""

    name: str
    plot: Markup
    base: float
    tuned: float
    low: float
    high: float
    null: float | None
    prompts: int


@dataclass(frozen=True)
class Forest:
    """The rows and the axis below them."""

    rows: tuple[ForestRow, ...]
    axis: Markup


@dataclass(frozen=True)
class Dumbbells:
    """The judge's rows and their axis."""

    rows: tuple[JudgeRow, ...]
    axis: Markup


def win_rates(results: Results) -> Forest:
    """Return the mean over training rewards if they are several, then training and held-out rewards."""
    entries: list[tuple[str, str, Rate, Rate | None, float | None, float | None]] = []
    if len(results.training) > 1:
        mean = results.training_win_rate
        null = _rate(mean.null, mean.null_low, mean.null_high)
        rate = (mean.value, mean.low, mean.high)
        entries.append(("Mean of training rewards", "mean", rate, null, None, None))
    for reward in (*results.training, *results.held_out):
        null = _rate(reward.null_win_rate, reward.null_low, reward.null_high)
        kind = "training" if reward.use == "train" else "held out"
        rate = (reward.win_rate, reward.low, reward.high)
        entries.append((reward.name, kind, rate, null, reward.mean_base, reward.mean_tuned))
    values = [v for _, _, rate, null, _, _ in entries for v in (*rate, *(null or ()))]
    scale = scale_over(values, include=[0.4, 0.6], percent=True, wanted=6)
    return Forest(
        tuple(
            ForestRow(name, kind, _intervals(scale, rate, null, kind), rate, null and null[0], base, tuned)
            for name, kind, rate, null, base, tuned in entries
        ),
        _axis(scale),
    )


def compared(
    entries: Sequence[tuple[str, str, Rate]], neutral: float, wanted: int = 6, *, percent: bool = True
) -> Forest:
    """Return a row per entry (name, kind, interval); `neutral` marks no change.

    `wanted` is the approximate number of ticks; `percent` labels them as shares.
    """
    values = [value for _, _, rate in entries for value in rate]
    include = [neutral - 0.02, neutral + 0.02]
    scale = scale_over(values, include=include, percent=percent, wanted=wanted)
    return Forest(
        tuple(
            ForestRow(name, kind, _intervals(scale, rate, None, kind, neutral), rate, None)
            for name, kind, rate in entries
        ),
        _axis(scale),
    )


def judged(judge: JudgeResult, prompts: int) -> Dumbbells:
    """Return a row for all prompts, then one per category."""
    entries: list[tuple[str, JudgeResult | JudgeCategory, int]] = [("All", judge, prompts)]
    entries += [(name, category, category.prompts) for name, category in sorted(judge.categories.items())]
    scale = scale_over([0.0, 1.0], percent=True)
    return Dumbbells(
        tuple(
            JudgeRow(name, _dumbbell(scale, e.base, e.tuned), e.base, e.tuned, e.low, e.high, e.null, count)
            for name, e, count in entries
        ),
        _axis(scale),
    )


def keys(results: Results) -> list[Key]:
    """Return the legend of the win-rates."""
    entries = [Key("training reward", "training", "circle")]
    if len(results.training) > 1:
        entries.insert(0, Key("mean of training rewards", "mean", "circle"))
    if results.held_out:
        entries.append(Key("held out: never trained on", "held-out", "circle"))
    if results.training_win_rate.null is not None:
        entries.append(Key("chance: base against base, different seeds", "null", "circle"))
    return entries


def _rate(value: float | None, low: float | None, high: float | None) -> Rate | None:
    return None if value is None or low is None or high is None else (value, low, high)


def _intervals(scale: Scale, rate: Rate, null: Rate | None, kind: str, neutral: float = 0.5) -> Markup:
    marks = list(_grid(scale, neutral))
    if null is not None:
        marks += _interval(scale, null, "null", 33, 3)
    marks += _interval(scale, rate, kind.replace(" ", "-"), 18 if null is not None else 23, 6)
    return _svg(marks, 46)


def _interval(scale: Scale, rate: Rate, css: str, y: int, radius: int) -> Iterable[Markup]:
    value, low, high = (_at(scale, v) for v in rate)
    yield Markup('<line class="interval {}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(css, low, high, y, y)
    yield Markup('<circle class="point {}" cx="{}" cy="{}" r="{}"/>').format(css, value, y, radius)


def _dumbbell(scale: Scale, base: float, tuned: float) -> Markup:
    """Draw an open mark for the base, a filled one for the tuned model, and a line between them."""
    a, b = _at(scale, base), _at(scale, tuned)
    css = "gain" if tuned >= base else "loss"
    marks = [
        *_grid(scale, None),
        Markup('<line class="interval {}" x1="{}" x2="{}" y1="17" y2="17"/>').format(css, a, b),
        Markup('<circle class="point base" cx="{}" cy="17" r="4.5"/>').format(a),
        Markup('<circle class="point {}" cx="{}" cy="17" r="5.5"/>').format(css, b),
    ]
    return _svg(marks, 34)


def _grid(scale: Scale, neutral: float | None) -> Iterable[Markup]:
    for tick in scale.ticks:
        css = "rule half" if neutral is not None and abs(tick - neutral) < 1e-9 else "grid"
        at = _at(scale, tick)
        yield Markup('<line class="{}" x1="{}" x2="{}" y1="0" y2="100%"/>').format(css, at, at)


def _axis(scale: Scale) -> Markup:
    label = Markup('<text x="{}" y="13" text-anchor="middle">{}</text>')
    labels = [label.format(_at(scale, tick), scale.label(tick)) for tick in scale.ticks]
    return _svg(labels, 18)


def _svg(marks: Sequence[Markup], height: int) -> Markup:
    return Markup('<svg class="forest" height="{}" aria-hidden="true">{}</svg>').format(
        height, Markup("").join(marks)
    )


def _at(scale: Scale, value: float) -> str:
    # Inset from the edges, so that marks and labels at the ends are not cut.
    return f"{5 + 90 * scale.fraction(value):.2f}%"
