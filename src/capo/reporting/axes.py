"""SVG charts: scales, ticks and marks, styled by the classes of the page.

A plotting library could not give what these charts need: the page's colors in light, dark and print,
text as text, a size of a few kilobytes, and equal bytes for equal data.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from capo.reporting.wording import power_of_ten

WIDTH, HEIGHT = 340, 226
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 26, 38

Values = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Key:
    """An entry of a legend: its label, and the class and kind of its mark.

    Kinds are line, bar, circle, square and star.
    """

    label: str
    css: str
    kind: str = "line"


@dataclass(frozen=True)
class Scale:
    """A linear axis from `low` to `high` with its ticks, in data units.

    `power` is the power of ten that the tick labels leave out; the label of the axis states it.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    power: int = 0
    percent: bool = False

    def fraction(self, value: float) -> float:
        """Return the position of `value` between the ends, 0 to 1."""
        return (value - self.low) / (self.high - self.low)

    def label(self, tick: float) -> str:
        factor = 100.0 if self.percent else 10.0**-self.power
        step = (self.ticks[1] - self.ticks[0]) * factor
        places = max(0, -math.floor(math.log10(step) + 1e-9))
        text = f"{tick * factor + 0.0:,.{places}f}"
        return text.replace("-", "\N{MINUS SIGN}") + ("%" if self.percent else "")

    def unit(self, label: str) -> str:
        """Return the label of the axis with the power of ten of its ticks."""
        if not self.power:
            return label
        return f"{label} (\N{MULTIPLICATION SIGN}{power_of_ten(self.power)})"


def scale_over(
    values: Iterable[float],
    *,
    include: Iterable[float] = (),
    wanted: int = 5,
    percent: bool = False,
    snug: bool = False,
) -> Scale:
    """Return an axis with round ticks that covers the finite `values` and `include`.

    `wanted` is the approximate number of ticks. `snug` ends the axis at the data instead of at a tick.
    """
    finite = [float(v) for v in (*values, *include) if math.isfinite(v)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if high - low < 1e-12 * max(1.0, abs(high)):
        pad = abs(high) * 0.1 if abs(high) > 1e-12 else 0.5
        low, high = low - pad, high + pad
    step = _round_step((high - low) / wanted)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(k * step for k in range(first, last + 1))
    if snug:
        ticks = tuple(t for t in ticks if low - step * 1e-6 <= t <= high + step * 1e-6)
    else:
        low, high = ticks[0], ticks[-1]
    largest = max(abs(low), abs(high))
    power = math.floor(math.log10(largest)) if not percent and not 1e-2 <= largest < 1e5 else 0
    return Scale(low, high, ticks, power, percent)


class Chart:
    """Marks on two axes, drawn in the order they are added; coordinates are in data units."""

    def __init__(self, x: Scale, y: Scale, x_label: str, y_label: str) -> None:
        self.x, self.y = x, y
        self._marks: list[Markup] = [self._grid(x_label, y_label)]

    def line(self, xs: Values, ys: Values, css: str) -> None:
        self._marks.append(Markup('<path class="line {}" d="{}"/>').format(css, self._path(xs, ys)))

    def band(self, xs: Values, low: Values, high: Values, css: str) -> None:
        """Shade the area between `low` and `high`."""
        upper, lower = self._path(xs, high), self._path(xs[::-1], low[::-1])
        self._marks.append(
            Markup('<path class="band {}" d="{}L{}Z"/>').format(css, upper, lower.removeprefix("M"))
        )

    def bars(self, edges: Values, heights: Values, css: str) -> None:
        """Draw bars between neighboring `edges`, from zero, as one path."""
        parts = []
        zero = _n(self.y_at(0.0))
        for left, right, top in zip(edges[:-1], edges[1:], heights, strict=True):
            if top > 0:
                a, b = _n(self.x_at(left) + 0.4), _n(self.x_at(right) - 0.4)
                parts.append(f"M{a} {zero}V{_n(self.y_at(top))}H{b}V{zero}Z")
        self._marks.append(Markup('<path class="bar {}" d="{}"/>').format(css, "".join(parts)))

    def error_bars(self, xs: Values, low: Values, high: Values, css: str) -> None:
        """Draw a vertical bar with caps from `low` to `high` at every x; none where they are equal."""
        parts = []
        for x, bottom, top in zip(xs, low, high, strict=True):
            if top > bottom:
                at, a, b = self.x_at(x), _n(self.y_at(bottom)), _n(self.y_at(top))
                left, right = _n(at - 2.5), _n(at + 2.5)
                parts.append(f"M{left} {a}H{right}M{_n(at)} {a}V{b}M{left} {b}H{right}")
        if parts:
            mark = Markup('<path class="line whisker {}" d="{}"/>').format(css, "".join(parts))
            self._marks.append(mark)

    def vertical(self, x: float, css: str) -> None:
        at = _n(self.x_at(x))
        self._rule(css, at, at, str(TOP), str(HEIGHT - BOTTOM))

    def horizontal(self, y: float, css: str) -> None:
        at = _n(self.y_at(y))
        self._rule(css, str(LEFT), str(WIDTH - RIGHT), at, at)

    def points(self, xs: Values, ys: Values, css: str, shape: str = "circle") -> None:
        """Draw marks of one `shape`: circle, square or star."""
        draw = {"circle": _circle, "square": _square, "star": _star}[shape]
        path = "".join(draw(self.x_at(x), self.y_at(y)) for x, y in zip(xs, ys, strict=True))
        self._marks.append(Markup('<path class="point {}" d="{}"/>').format(css, path))

    def x_at(self, value: float) -> float:
        return LEFT + self.x.fraction(value) * (WIDTH - LEFT - RIGHT)

    def y_at(self, value: float) -> float:
        return HEIGHT - BOTTOM - self.y.fraction(value) * (HEIGHT - BOTTOM - TOP)

    def svg(self, description: str) -> Markup:
        """Return the chart as an element; screen readers read the `description`."""
        return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
            WIDTH, HEIGHT, description, Markup("").join(self._marks)
        )

    def _rule(self, css: str, x1: str, x2: str, y1: str, y2: str) -> None:
        rule = Markup('<line class="rule {}" x1="{}" x2="{}" y1="{}" y2="{}"/>')
        self._marks.append(rule.format(css, x1, x2, y1, y2))

    def _path(self, xs: Values, ys: Values) -> str:
        points = (f"{_n(self.x_at(x))} {_n(self.y_at(y))}" for x, y in zip(xs, ys, strict=True))
        return "M" + "L".join(points)

    def _grid(self, x_label: str, y_label: str) -> Markup:
        line = Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>')
        text = Markup('<text x="{}" y="{}" text-anchor="{}"{}>{}</text>')
        title = Markup('<text class="axis-label" x="{}" y="{}" text-anchor="{}">{}</text>')
        right, floor = WIDTH - RIGHT, HEIGHT - BOTTOM
        parts = []
        for tick in self.y.ticks:
            at = _n(self.y_at(tick))
            parts.append(line.format("grid", LEFT, right, at, at))
            parts.append(text.format(LEFT - 7, at, "end", Markup(' dy=".35em"'), self.y.label(tick)))
        for tick in self.x.ticks:
            at = _n(self.x_at(tick))
            parts.append(line.format("tick", at, at, floor, floor + 4))
            parts.append(text.format(at, floor + 17, "middle", "", self.x.label(tick)))
        parts.append(line.format("axis", LEFT, right, floor, floor))
        parts.append(title.format(0, 11, "start", self.y.unit(y_label)))
        parts.append(title.format(right, HEIGHT - 3, "end", self.x.unit(x_label)))
        return Markup("").join(parts)


def _round_step(rough: float) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that is at least `rough`."""
    base = 10.0 ** math.floor(math.log10(rough))
    return next(m * base for m in (1, 2, 5, 10) if m * base >= rough * (1 - 1e-9))


def _n(value: float) -> str:
    """Format a coordinate to a tenth of a unit, which is below a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def _circle(x: float, y: float, r: float = 3.6) -> str:
    return f"M{_n(x - r)} {_n(y)}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0Z"


def _square(x: float, y: float, r: float = 3.3) -> str:
    return f"M{_n(x - r)} {_n(y - r)}h{2 * r}v{2 * r}h{-2 * r}Z"


def _star(x: float, y: float, r: float = 8.0) -> str:
    corners = (
        (x + k * math.sin(a), y - k * math.cos(a))
        for i in range(10)
        for k, a in [(r if i % 2 == 0 else r * 0.42, i * math.pi / 5)]
    )
    return "M" + "L".join(f"{_n(a)} {_n(b)}" for a, b in corners) + "Z"
