"""A study's page: one HTML file that loads, runs and sends nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from capo.reporting.templating import environment
from capo.store.manifest import versions
from capo.studies.contrasts import ABOUT_CONTRASTS, contrasts, nothing_compared
from capo.studies.drawings import Drawings
from capo.studies.forests import forests
from capo.studies.hypervolume import standing, volume
from capo.studies.runs import StudyRun
from capo.studies.study_table import (
    ABOUT_COST,
    ABOUT_EQUAL_DRIFT,
    ABOUT_FRONTS,
    NULL,
    at_drift,
    scored,
    seed_mean,
    seeds_of,
    settings,
)
from capo.studies.warnings import warnings


def render_study(results: Mapping[str, Any], runs: Sequence[StudyRun], drawn: Drawings) -> str:
    """The page of a study's `results.json`, the finished runs behind it, and what is drawn of them."""
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
            seed_mean=seed_mean,
            forests=forests(results),
            drawn=drawn,
            about_fronts=ABOUT_FRONTS,
            standing=standing,
            volume=volume,
            judged=sorted({category for row in results["rows"] for category in row["judge"]}),
            settings=settings,
            null_name=NULL,
            pages={f"{run.row.name} {run.seed}": _page(run) for run in runs if not run.kept},
            versions=versions(),
        )
    )


def _page(run: StudyRun) -> str:
    """Where a run's own page is, from the study's folder."""
    page = run.directory / ("evaluate" if run.row.soup else "report") / "index.html"
    return page.relative_to(run.folder).as_posix()
