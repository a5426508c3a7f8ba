"""All figures of a study, for its page and as SVG files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from capo.engine.progress import say
from capo.reporting.axes import Key
from capo.reporting.plots import Plot
from capo.reporting.sheet import sheet
from capo.studies.curve_plots import Histogram, histograms, validation_curves, weightings
from capo.studies.forest_plots import forest_sheet
from capo.studies.front_plots import front_keys, front_plots
from capo.studies.gain_plots import gain_plots
from capo.studies.measure_names import MEAN
from capo.studies.study_run import RUN_ERRORS, StudyRun


@dataclass(frozen=True)
class Figures:
    """The figures of a study; a list is empty if there is nothing to plot."""

    curves: list[Plot]
    over_optimization: list[Plot]
    fronts: list[tuple[Mapping[str, Any], list[Plot], list[Key]]]
    weightings: list[Plot]
    shown: StudyRun | None
    """The run whose training samples `histograms` shows."""
    histograms: list[Histogram]


def study_figures(results: Mapping[str, Any], runs: Sequence[StudyRun]) -> Figures:
    """Plot a study's `results.json` and the finished runs behind it."""
    rows = {row["name"]: row["curves"] for row in results["rows"]}
    held_out = [m["name"] for m in results["measures"] if m["kind"] == "held out"]
    shown, histogram_plots = _histograms(results, runs)
    return Figures(
        curves=[
            plot
            for measure in (MEAN, *held_out)
            for x in ("steps", "drift")
            for plot in validation_curves(rows, measure, results["against"], x)
        ],
        over_optimization=gain_plots(results["rows"]),
        fronts=[
            (front, front_plots(front, results["rows"]), front_keys(front)) for front in results["fronts"]
        ],
        weightings=weightings(runs),
        shown=shown,
        histograms=histogram_plots,
    )


def figure_files(results: Mapping[str, Any], drawn: Figures) -> dict[str, str]:
    """Return the figures as SVG documents, by file name."""
    raw = [replace(plot, title=f"{name}, raw") for name, plot, _ in drawn.histograms]
    calibrated = [
        replace(plot, title=f"{name}, calibrated") for name, _, plot in drawn.histograms if plot is not None
    ]
    files = {
        "win-rates.svg": forest_sheet(results),
        "curves.svg": sheet(drawn.curves, columns=2) if drawn.curves else "",
        "over-optimization.svg": sheet(drawn.over_optimization) if drawn.over_optimization else "",
        "loss-weights.svg": sheet(drawn.weightings) if drawn.weightings else "",
        "scores.svg": sheet(raw + calibrated, columns=len(raw)) if raw else "",
        **{f"front-{front['name']}.svg": sheet(plots, keys) for front, plots, keys in drawn.fronts if plots},
    }
    return {name: svg for name, svg in files.items() if svg}


def _histograms(
    results: Mapping[str, Any], runs: Sequence[StudyRun]
) -> tuple[StudyRun | None, list[Histogram]]:
    """The run whose training scores are shown, preferably of the row that others are compared with."""
    trained = [run for run in runs if not run.row.soup and not run.kept]
    for run in sorted(trained, key=lambda run: run.row.name != results["against"]):
        try:
            return run, histograms(run)
        except RUN_ERRORS as error:
            say(f"{run.name}: its training scores are not plotted: {error}")
    return None, []
