"""Print the policies that `capo soup` made."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from capo.cli.tables import add_row, print_text, show, table


def print_soups(directory: Path, soups: Sequence[dict[str, Any]]) -> None:
    """Print one row per policy."""
    grid = table(["policy", "weights", "rank", "relative error"], title=str(directory))
    for soup in soups:
        error = soup.get("relative_error")
        weights = ", ".join(f"{weight:g}" for weight in soup["weights"])
        add_row(grid, [soup["folder"], weights, soup.get("rank"), None if error is None else f"{error:.2g}"])
    show(grid)
    folder = soups[0]["folder"]
    policy = folder if folder == str(directory) else directory / folder  # soups of a sweep have names in it
    print_text(f"Next: capo evaluate RECIPE --policy {policy} --run runs/soup")
