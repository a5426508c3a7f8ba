"""Cells of CSV files that spreadsheets open."""

from typing import Any

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of text that a spreadsheet runs as a formula."""


def inert_cell(value: Any) -> Any:
    """Return a cell that no spreadsheet runs: text that begins as a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
