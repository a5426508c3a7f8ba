"""Forest plots: the interval of every row, by measure, for the page and as one picture."""

from collections.abc import Mapping
from typing import Any

from capo.reporting import forest
from capo.reporting.forest import Forest
from capo.reporting.sheet import CHARACTER, MARGIN, TITLE, with_css_values
from capo.reporting.templating import environment
from capo.studies.table_cells import NULL_ROW

COLUMN, GAP, STEP = 170, 12, 24
"""Width of a measure, its margin on both sides, and height of a row, in pixels."""


def forests(results: Mapping[str, Any], wanted: int = 6) -> list[tuple[Mapping[str, str], Forest]]:
    """Every measure in `results.json` with the rows that have it, and about `wanted` ticks."""
    return [(measure, _forest(results, measure, wanted)) for measure in results["measures"]]


def forest_sheet(results: Mapping[str, Any]) -> str:
    """All measures side by side, one line per row, as an SVG document."""
    names = [row["name"] for row in results["rows"]] + [NULL_ROW] * bool(results["null"])
    left = MARGIN + round(CHARACTER * max(map(len, names)))
    plots = forests(results, wanted=3)
    drawn = (
        environment()
        .get_template("forest.svg.j2")
        .render(
            names=names, columns=[(_title(m), plot, _by_name(plot)) for m, plot in plots],
            left=left, top=MARGIN + TITLE, column=COLUMN, gap=GAP, step=STEP, null_name=NULL_ROW,
            width=left + COLUMN * len(plots) + MARGIN, height=TITLE + STEP * (len(names) + 1) + 2 * MARGIN,
        )
    )  # fmt: skip
    return with_css_values(drawn)


def _forest(results: Mapping[str, Any], measure: Mapping[str, str], wanted: int) -> Forest:
    name, kind = measure["name"], measure["kind"]
    entries = [(row["name"], kind, row["measures"].get(name)) for row in results["rows"]]
    if results["null"]:
        entries.append((NULL_ROW, "null", results["null"].get(name)))
    known = [(row, of, (e["value"], e["low"], e["high"])) for row, of, e in entries if e is not None]
    return forest.compared(known, 0.0 if kind == "judge" else 0.5, wanted)


def _by_name(drawn: Forest) -> dict[str, forest.ForestRow]:
    return {row.name: row for row in drawn.rows}


def _title(measure: Mapping[str, str]) -> tuple[str, str]:
    """Title in two lines, since a column is narrow."""
    if measure["kind"] == "judge":
        return "Images judged correct", "minus base"
    name = "Mean of rewards" if measure["kind"] == "mean" else measure["name"]
    return name, "win-rate, held out" if measure["kind"] == "held out" else "win-rate"
