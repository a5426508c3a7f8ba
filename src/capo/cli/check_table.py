"""Print what a check of a run found."""

from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from capo.cli.tables import add_row, print_text, show, table
from capo.store.check import Finding

COLORS = {"error": "red", "warning": "yellow", "note": "dim"}


def print_check(directory: Path, stages: Sequence[str], findings: Sequence[Finding]) -> None:
    """Print one row per finding, errors first, then the verdict."""
    if not stages:
        print_text(f"{directory} is up to date; nothing to check.")
        return
    grid = table(["field", "", "finding"])
    for finding in findings:
        add_row(grid, [finding.field, Text(finding.severity, COLORS[finding.severity]), finding.message])
    if findings:
        show(grid)
    errors = sum(finding.severity == "error" for finding in findings)
    if errors:
        print_text(f"{errors} problem{'s' if errors > 1 else ''} would stop the run.")
    else:
        print_text(f"Nothing would stop the run. Checked: {', '.join(stages)}.")
