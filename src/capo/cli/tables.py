"""Output helpers that the table modules share."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from capo.engine.plain_text import REORDERING, plain_text

UNPRINTABLE = re.compile(rf"[\x7f-\x9f\ud800-\udfff{REORDERING}]")
"""What JSON may contain as it is, and terminals do not show as text."""


def print_json(values: Mapping[str, Any]) -> None:
    """Print one JSON object, with everything that a terminal would not print as text escaped."""
    text = json.dumps(values, ensure_ascii=False, allow_nan=False)
    print(text if text.isprintable() else UNPRINTABLE.sub(_escaped, text))


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def print_text(text: str) -> None:
    """Print text, without what a terminal would take as commands or show in another order."""
    print(plain_text(text), flush=True)


def table(columns: Sequence[str], *, title: str | None = None, right: Sequence[str] = ()) -> Table:
    """Create an empty table; columns named in `right` are aligned to the right, the others wrap."""
    grid = Table(title=title and Text(title), title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in columns:
        if column in right:
            grid.add_column(column, justify="right", no_wrap=True)
        else:
            # Words of the heading stay whole; everything else may wrap, so that 80 columns suffice.
            grid.add_column(column, overflow="fold", min_width=max(map(len, column.split()), default=0))
    return grid


def add_row(to: Table, cells: Iterable[object]) -> None:
    """Add a row of plain text, in which brackets are not markup; None is an empty cell."""
    to.add_row(*(cell if isinstance(cell, Text) else Text(_cell(cell)) for cell in cells))


def _cell(value: object) -> str:
    return "" if value is None else plain_text(str(value))


def show(grid: Table) -> None:
    """Print a table, without a blank line before or after it."""
    Console().print(grid)


def percent(share: float | None, digits: int = 1) -> str:
    """A share as `66.6%`; empty for None."""
    return "" if share is None else f"{100 * share:.{digits}f}%"


def points(difference: float) -> str:
    """A difference of two shares in signed percentage points: `+4.1`."""
    return f"{100 * difference:+.1f}"


def gpu_hours(amount: float) -> str:
    """`0.117`, `15.9`, `1,310`: three significant digits."""
    return f"{amount:,.3g}" if amount < 100 else f"{amount:,.0f}"
