"""Several charts as one picture: an SVG file of its own, for papers and documents."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from capo.reporting.axes import HEIGHT, WIDTH, Key
from capo.reporting.plots import Plot
from capo.reporting.templating import environment

MARGIN, GUTTER = 16, 34
TITLE, LINE = 24, 19
"""Heights of a plot's title and of a line of its legend."""
MARK = 29
"""Width of a legend's mark and of the room after it."""
CHARACTER = 6.4
"""About the width of one in a legend: there is no browser here to ask."""


@dataclass(frozen=True)
class Entry:
    """A legend's key and where it is, from the corner of its legend."""

    key: Key
    x: float
    y: int


@dataclass(frozen=True)
class Cell:
    """A plot and where it is."""

    plot: Plot
    x: int
    y: int
    legend: tuple[Entry, ...]


def sheet(plots: Sequence[Plot], keys: Sequence[Key] = (), columns: int = 3) -> str:
    """An SVG document with the `plots` row by row, and below them the `keys` that all of them share.

    It needs no page around it: its colours are the page's in light, on white, and written out, as not
    every program that reads SVG knows variables.
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
    return written_out(drawn)


def _placed(plots: Sequence[Plot], across: int) -> tuple[list[Cell], int]:
    """The plots in their places, and where the last row ends."""
    cells, top = [], MARGIN
    for first in range(0, len(plots), across):
        legends = [tuple(_flowed(plot.keys, WIDTH)) for plot in plots[first : first + across]]
        for column, legend in enumerate(legends):
            cells.append(Cell(plots[first + column], MARGIN + column * (WIDTH + GUTTER), top, legend))
        notes = LINE * any(plot.note for plot in plots[first : first + across])
        top += TITLE + HEIGHT + notes + max(map(_height, legends)) + GUTTER
    return cells, top


def _flowed(keys: Iterable[Key], width: int) -> Iterator[Entry]:
    """Keys one after the other, in as many lines as they need."""
    x, y = 0.0, 0
    for key in keys:
        wide = MARK + CHARACTER * len(key.label)
        if x and x + wide > width:
            x, y = 0.0, y + LINE
        yield Entry(key, round(x, 1), y)
        x += wide + 14


def _height(legend: Sequence[Entry]) -> int:
    return legend[-1].y + LINE + 8 if legend else 0


def written_out(drawn: str) -> str:
    """With the values of variables in their places, and the paper white."""
    values = dict(re.findall(r"(--[\w-]+): (#\w+);", drawn)) | {"--paper": "#ffffff"}
    without = re.sub(r":root \{.*?\}\n", "", drawn, count=1, flags=re.DOTALL)
    return re.sub(r"var\((--[\w-]+)\)", lambda found: values[found[1]], without)
