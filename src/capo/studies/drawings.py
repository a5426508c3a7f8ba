"""All figures of a study: on its page, and as files of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from capo.reporting.axes import Key
from capo.reporting.forest import MEAN
from capo.reporting.plots import Plot
from capo.reporting.sheet import sheet
from capo.studies.figures import curves, histograms, weightings
from capo.studies.forests import forest_sheet
from capo.studies.front_figure import front_keys, front_plots
from capo.studies.overoptimization import panels
from capo.studies.runs import StudyRun


@dataclass(frozen=True)
class Drawings:
    """What is drawn of a study; empty where there is nothing to draw."""

    curves: list[Plot]
    over_optimization: list[Plot]
    fronts: list[tuple[Mapping[str, Any], list[Plot], list[Key]]]
    weightings: list[Plot]
    shown: StudyRun | None
    """whose training samples' scores `histograms` has"""
    histograms: list[tuple[str, Plot, Plot | None]]


def drawings(results: Mapping[str, Any], runs: Sequence[StudyRun]) -> Drawings:
    """Of a study's `results.json` and the finished runs behind it."""
    rows = {row["name"]: row["curves"] for row in results["rows"]}
    held_out = [m["name"] for m in results["measures"] if m["kind"] == "held out"]
    shown = _shown(results, runs)
    return Drawings(
        curves=[
            plot
            for measure in (MEAN, *held_out)
            for x in ("steps", "drift")
            for plot in curves(rows, measure, results["against"], x)
        ],
        over_optimization=panels(results["rows"]),
        fronts=[(each, front_plots(each, results["rows"]), front_keys(each)) for each in results["fronts"]],
        weightings=weightings(runs),
        shown=shown,
        histograms=histograms(shown) if shown else [],
    )


def sheets(results: Mapping[str, Any], drawn: Drawings) -> dict[str, str]:
    """The figures of a study's `results.json` as SVG documents, by file name."""
    raw = [replace(plot, title=f"{name}, raw") for name, plot, _ in drawn.histograms]
    calibrated = [
        replace(plot, title=f"{name}, calibrated") for name, _, plot in drawn.histograms if plot is not None
    ]
    found = {
        "win-rates.svg": forest_sheet(results),
        "curves.svg": sheet(drawn.curves, columns=2) if drawn.curves else "",
        "over-optimization.svg": sheet(drawn.over_optimization) if drawn.over_optimization else "",
        "loss-weights.svg": sheet(drawn.weightings) if drawn.weightings else "",
        "scores.svg": sheet(raw + calibrated, columns=len(raw)) if raw else "",
        **{f"front-{front['name']}.svg": sheet(plots, keys) for front, plots, keys in drawn.fronts if plots},
    }
    return {name: svg for name, svg in found.items() if svg}


def _shown(results: Mapping[str, Any], runs: Sequence[StudyRun]) -> StudyRun | None:
    """The run whose training scores are shown: of the row that others are compared with, if it is there."""
    trained = [run for run in runs if not run.row.soup and not run.kept]
    return min(trained, key=lambda run: run.row.name != results["against"], default=None)
