"""A study's page: one HTML file that loads, runs and sends nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from capo.compare.contrasts import ABOUT_CONTRASTS, contrasts, nothing_compared
from capo.compare.figures import curves, histograms, weightings
from capo.compare.front_figure import front_keys, front_plots
from capo.compare.hypervolume import standing, volume
from capo.compare.overoptimization import panels
from capo.compare.runs import StudyRun
from capo.compare.table import (
    ABOUT_COST,
    ABOUT_EQUAL_DRIFT,
    ABOUT_FRONTS,
    NULL,
    at_drift,
    level,
    scored,
    seeds_of,
    settings,
)
from capo.compare.warnings import warnings
from capo.manifest import versions
from capo.reporting import forest
from capo.reporting.forest import MEAN, Forest
from capo.reporting.plots import Plot
from capo.reporting.templating import environment


def render_study(results: Mapping[str, Any], runs: Sequence[StudyRun]) -> str:
    """The page of a study's `results.json` and the finished runs behind it."""
    rows = {row["name"]: row["curves"] for row in results["rows"]}
    held_out = [m["name"] for m in results["measures"] if m["kind"] == "held out"]
    shown = _shown(results, runs)
    lines: list[Plot] = []
    for measure in (MEAN, *held_out):
        for x in ("steps", "drift"):
            lines += curves(rows, measure, results["against"], x)
    return (
        environment()
        .get_template("study.html.j2")
        .render(
            results=results,
            warnings=warnings(results, runs),
            contrasts=contrasts(results),
            about_contrasts=ABOUT_CONTRASTS,
            nothing_compared=nothing_compared,
            about_cost=ABOUT_COST,
            about_equal_drift=ABOUT_EQUAL_DRIFT,
            seeds_of=seeds_of,
            scored=scored(results),
            at_drift=at_drift(results),
            level=level,
            forests=[(measure, _forest(results, measure)) for measure in results["measures"]],
            curves=lines,
            over_optimization=panels(results["rows"]),
            fronts=[
                (each, front_plots(each, results["rows"]), front_keys(each)) for each in results["fronts"]
            ],
            about_fronts=ABOUT_FRONTS,
            standing=standing,
            volume=volume,
            judged=sorted({category for row in results["rows"] for category in row["judge"]}),
            weightings=weightings(runs),
            histograms=histograms(shown) if shown else [],
            shown=shown,
            settings=settings,
            null_name=NULL,
            pages={f"{run.row.name} {run.seed}": _page(run) for run in runs},
            versions=versions(),
        )
    )


def _forest(results: Mapping[str, Any], measure: Mapping[str, str]) -> Forest:
    name, kind = measure["name"], measure["kind"]
    entries = [(row["name"], kind, row["measures"].get(name)) for row in results["rows"]]
    if results["null"]:
        entries.append((NULL, "null", results["null"].get(name)))
    known = [(row, of, (e["value"], e["low"], e["high"])) for row, of, e in entries if e is not None]
    return forest.compared(known, 0.0 if kind == "judge" else 0.5)


def _shown(results: Mapping[str, Any], runs: Sequence[StudyRun]) -> StudyRun | None:
    """The run whose training scores are shown: of the row that others are compared with, if trained."""
    trained = [run for run in runs if not run.row.soup]
    return min(trained, key=lambda run: run.row.name != results["against"], default=None)


def _page(run: StudyRun) -> str:
    """Where a run's own page is, from the study's folder."""
    page = run.directory / ("evaluate" if run.row.soup else "report") / "index.html"
    return page.relative_to(run.folder).as_posix()
