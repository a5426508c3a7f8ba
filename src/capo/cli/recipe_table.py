"""Print the shipped recipes."""

from collections.abc import Mapping
from pathlib import Path

from capo.cli.tables import add_row, print_text, show, table


def print_recipes(recipes: Mapping[str, Path]) -> None:
    """Print every recipe with the comment at its top."""
    grid = table(["recipe", "description"])
    for name, path in recipes.items():
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        add_row(grid, [name, first.removeprefix("#").strip()])
    show(grid)
    print_text("\nPrint one with `capo recipes show NAME`; run one with `capo run NAME`.")
