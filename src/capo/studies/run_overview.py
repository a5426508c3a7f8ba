"""The rows of a study with the state and the command of every run, for `capo compare --list`."""

from pathlib import Path
from typing import Any

from capo.studies.commands import run_command
from capo.studies.study import Study
from capo.studies.study_run import RUN_ERRORS, StudyRun, runs_of


def run_overview(study: Study, folder: Path) -> list[dict[str, Any]]:
    """Return one entry per row: its settings, and by seed the state of its run and the command for it.

    A soup has no command of its own. A run with a damaged file is `unreadable`; `errors` has the reasons.
    """
    runs = {(run.row.name, run.seed): run for run in runs_of(study, folder)}
    states = {key: _state(run) for key, run in runs.items()}
    return [
        {
            "row": row.name,
            "set": row.own,
            "start": row.start,
            "soup": list(row.soup),
            "weights": list(row.weights),
            "interpolation": row.interpolation if row.soup else None,
            "tune": row.tune,
            "runs": {str(seed): states[row.name, seed][0] for seed in study.seeds},
            "errors": {str(seed): why for seed in study.seeds if (why := states[row.name, seed][1])},
            "commands": {str(seed): _command(study, runs[row.name, seed]) for seed in study.seeds},
        }
        for row in study.rows
    ]


def _state(run: StudyRun) -> tuple[str, str]:
    """Return the state, and the reason if it cannot be read."""
    try:
        return "kept" if run.kept else run.state, ""
    except RUN_ERRORS as error:
        return "unreadable", str(error)


def _command(study: Study, run: StudyRun) -> str | None:
    if run.row.soup:
        return None
    return run_command(study.recipe, study.run_settings(run.row, run.seed, run.folder), run.directory)
