"""Several charts in one standalone SVG file, for papers and documents."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from capo.reporting.axes import HEIGHT, WIDTH, Key
from capo.reporting.plots import Plot
from capo.reporting.templating import environment

MARGIN, GUTTER = 16, 34
TITLE, LINE = 24, 19
"""Heights of a plot title and of a line of a legend."""
MARK = 29
"""Width of a legend mark with the space after it."""
CHARACTER = 6.4
"""Approximate width of a character in a legend."""


@dataclass(frozen=True)
class PlacedKey:
    """An entry of a legend and its position within the legend."""

    key: Key
    x: float
    y: int


@dataclass(frozen=True)
class PlacedPlot:
    """A plot, its position, and its legend."""

    plot: Plot
    x: int
    y: int
    legend: tuple[PlacedKey, ...]


def sheet(plots: Sequence[Plot], keys: Sequence[Key] = (), columns: int = 3) -> str:
    """Return an SVG document with the `plots` in rows and, below them, the shared legend `keys`.

    The document stands alone: it has the light colors of the page on white, without CSS variables, which
    some programs that read SVG do not support.
    """
    across = min(columns, len(plots))
    width = 2 * MARGIN + across * WIDTH + (across - 1) * GUTTER
    cells, bottom = _placed(plots, across)
    shared = tuple(_flowed(keys, width - 2 * MARGIN))
    height = bottom + _height(shared) - GUTTER + MARGIN + (GUTTER // 2 if shared else 0)
    template = environment().get_template("sheet.svg.j2")
    drawn = template.render(
        cells=cells, shared=shared, shared_top=bottom - GUTTER // 2, width=width, height=height,
        margin=MARGIN, title=TITLE, chart=(WIDTH, HEIGHT),
    )  # fmt: skip
    return with_css_values(drawn)


def _placed(plots: Sequence[Plot], across: int) -> tuple[list[PlacedPlot], int]:
    """Return the plots with their positions, and the bottom of the last row."""
    cells, top = [], MARGIN
    for first in range(0, len(plots), across):
        legends = [tuple(_flowed(plot.keys, WIDTH)) for plot in plots[first : first + across]]
        for column, legend in enumerate(legends):
            cells.append(PlacedPlot(plots[first + column], MARGIN + column * (WIDTH + GUTTER), top, legend))
        notes = LINE * any(plot.note for plot in plots[first : first + across])
        top += TITLE + HEIGHT + notes + max(map(_height, legends)) + GUTTER
    return cells, top


def _flowed(keys: Iterable[Key], width: int) -> Iterator[PlacedKey]:
    """Yield the keys with their positions, wrapped into lines of `width`."""
    x, y = 0.0, 0
    for key in keys:
        key_width = MARK + CHARACTER * len(key.label)
        if x and x + key_width > width:
            x, y = 0.0, y + LINE
        yield PlacedKey(key, round(x, 1), y)
        x += key_width + 14


def _height(legend: Sequence[PlacedKey]) -> int:
    return legend[-1].y + LINE + 8 if legend else 0


def with_css_values(drawn: str) -> str:
    """Return the drawing with CSS variables replaced by their values, on white paper."""
    values = dict(re.findall(r"(--[\w-]+): (#\w+);", drawn)) | {"--paper": "#ffffff"}
    without = re.sub(r":root \{.*?\}\n", "", drawn, count=1, flags=re.DOTALL)
    return re.sub(r"var\((--[\w-]+)\)", lambda match: values[match[1]], without)
