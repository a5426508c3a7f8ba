"""Every row's interval by each measure: tables of the page, and one picture."""

from collections.abc import Mapping
from typing import Any

from capo.reporting import forest
from capo.reporting.forest import Forest
from capo.reporting.sheet import CHARACTER, MARGIN, TITLE, written_out
from capo.reporting.templating import environment
from capo.studies.study_table import NULL

COLUMN, GAP, STEP = 140, 12, 24
"""Width of a measure, what of it is left free at both sides, and height of a row in the picture."""


def forests(results: Mapping[str, Any], wanted: int = 6) -> list[tuple[Mapping[str, str], Forest]]:
    """Each measure of a study's `results.json` with the rows that have it, and about `wanted` ticks."""
    return [(measure, _forest(results, measure, wanted)) for measure in results["measures"]]


def forest_sheet(results: Mapping[str, Any]) -> str:
    """All measures side by side, a row each, as an SVG document like those of `capo.reporting.sheet`."""
    names = [row["name"] for row in results["rows"]] + [NULL] * bool(results["null"])
    left = MARGIN + round(CHARACTER * max(map(len, names)))
    found = forests(results, wanted=3)
    drawn = (
        environment()
        .get_template("forest.svg.j2")
        .render(
            names=names, columns=[(_title(m), each, _by_name(each)) for m, each in found],
            left=left, top=MARGIN + TITLE, column=COLUMN, gap=GAP, step=STEP, null_name=NULL,
            width=left + COLUMN * len(found) + MARGIN, height=TITLE + STEP * (len(names) + 1) + 2 * MARGIN,
        )
    )  # fmt: skip
    return written_out(drawn)


def _forest(results: Mapping[str, Any], measure: Mapping[str, str], wanted: int) -> Forest:
    name, kind = measure["name"], measure["kind"]
    entries = [(row["name"], kind, row["measures"].get(name)) for row in results["rows"]]
    if results["null"]:
        entries.append((NULL, "null", results["null"].get(name)))
    known = [(row, of, (e["value"], e["low"], e["high"])) for row, of, e in entries if e is not None]
    return forest.compared(known, 0.0 if kind == "judge" else 0.5, wanted)


def _by_name(drawn: Forest) -> dict[str, forest.ForestRow]:
    return {row.name: row for row in drawn.rows}


def _title(measure: Mapping[str, str]) -> tuple[str, str]:
    """In two lines, as a column is narrow."""
    if measure["kind"] == "judge":
        return "Images found right", "less the base's"
    name = "Mean of rewards" if measure["kind"] == "mean" else measure["name"]
    return name, "win-rate, held out" if measure["kind"] == "held out" else "win-rate"
