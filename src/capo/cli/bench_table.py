"""A benchmark as a table for people, or as plain values."""

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from capo.cost.bench.benchmark import Benchmark
from capo.cost.bench.measure import Row


def values(found: Benchmark) -> dict[str, Any]:
    """Plain JSON values; `speed` and `memory` of a row are ratios to the conventional one."""
    rows = [{**asdict(row), **found.ratios(row)} for row in found.rows]
    return {**asdict(found), "rows": rows}


def print_table(found: Benchmark) -> None:
    """A row a way of doing it; columns that would be empty are left out."""
    cells = [_cells(row, found) for row in found.rows]
    columns = [name for name in cells[0] if any(row[name] for row in cells)]
    table = Table(title=Text(f"{found.part}: {found.subject} on {found.device}"), title_justify="left")
    for name in columns:
        table.add_column(name, justify="left" if name == columns[0] else "right", no_wrap=True)
    for row in cells:
        table.add_row(*(Text(row[name]) for name in columns))
    Console().print(table)


def _cells(row: Row, found: Benchmark) -> dict[str, str]:
    compared = found.ratios(row)
    missing = "out of memory" if row.seconds is None else ""
    return {
        found.part: row.name,
        "seconds": _figure(row.seconds) or missing,
        "host": _figure(row.host_seconds),
        f"{found.unit}/s": _figure(row.per_second),
        "memory": _text(row.peak_bytes and row.peak_bytes / 2**20, "{:,.0f} MiB"),
        "of bf16 peak": _text(row.share_of_peak, "{:.0%}"),
        "speed": _text(compared["speed"], "{:.2f} ×"),
        "its memory": _text(compared["memory"], "{:.0%}"),
    }


def _figure(value: float | None) -> str:
    """Three digits, or all before the point."""
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _text(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
