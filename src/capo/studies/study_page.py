"""The page of a study: one HTML file without scripts or external resources."""

from collections.abc import Mapping, Sequence
from typing import Any

from capo.reporting.templating import environment
from capo.store.manifest import versions
from capo.studies.contrasts import ABOUT_CONTRASTS, contrasts, nothing_compared
from capo.studies.forest_plots import forests
from capo.studies.hypervolume import dominance_sentence, volume_text
from capo.studies.measure_names import source_title
from capo.studies.study import set_options
from capo.studies.study_figures import Figures
from capo.studies.study_run import StudyRun
from capo.studies.study_warnings import study_warnings
from capo.studies.table_cells import (
    ABOUT_COST,
    ABOUT_EQUAL_DRIFT,
    ABOUT_FRONTS,
    ABOUT_JOINT,
    NULL_ROW,
    drift_measures,
    row_settings,
    scored_rewards,
    seed_count,
    seed_mean,
)


def render_study(results: Mapping[str, Any], runs: Sequence[StudyRun], drawn: Figures) -> str:
    """Render the page from `results.json`, the finished runs behind it, and their figures."""
    return (
        environment()
        .get_template("study.html.j2")
        .render(
            results=results,
            title=source_title,
            warnings=study_warnings(results, runs),
            contrasts=contrasts(results),
            about_contrasts=ABOUT_CONTRASTS,
            nothing_compared=nothing_compared,
            about_cost=ABOUT_COST,
            about_joint=ABOUT_JOINT,
            joint=[row for row in results["rows"] if row.get("joint")],
            about_equal_drift=ABOUT_EQUAL_DRIFT,
            seeds_of=seed_count,
            scored=scored_rewards(results),
            at_drift=drift_measures(results),
            seed_mean=seed_mean,
            forests=forests(results),
            drawn=drawn,
            about_fronts=ABOUT_FRONTS,
            standing=dominance_sentence,
            volume=volume_text,
            judged=sorted({category for row in results["rows"] for category in row["judge"]}),
            settings=row_settings,
            shared=set_options(results["shared"]),
            null_name=NULL_ROW,
            pages={f"{run.row.name} {run.seed}": _page(run) for run in runs if not run.kept},
            versions=versions(),
        )
    )


def _page(run: StudyRun) -> str:
    """Path of a run's own page, relative to the study's folder."""
    page = run.directory / ("evaluate" if run.row.soup else "report") / "index.html"
    return page.relative_to(run.folder).as_posix()
