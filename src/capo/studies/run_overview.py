"""The rows of a study with the state and the command of every run, for `capo compare --list`."""

from pathlib import Path
from typing import Any

from capo.studies.commands import run_command
from capo.studies.study import Study
from capo.studies.study_run import StudyRun, runs_of


def run_overview(study: Study, folder: Path) -> list[dict[str, Any]]:
    """Return one entry per row: its settings, and by seed the state of its run and the command for it.

    A soup has no command of its own.
    """
    runs = {(run.row.name, run.seed): run for run in runs_of(study, folder)}
    return [
        {
            "row": row.name,
            "set": row.own,
            "start": row.start,
            "soup": list(row.soup),
            "weights": list(row.weights),
            "interpolation": row.interpolation if row.soup else None,
            "tune": row.tune,
            "runs": {str(seed): _state(runs[row.name, seed]) for seed in study.seeds},
            "commands": {str(seed): _command(study, runs[row.name, seed]) for seed in study.seeds},
        }
        for row in study.rows
    ]


def _state(run: StudyRun) -> str:
    return "kept" if run.kept else run.state


def _command(study: Study, run: StudyRun) -> str | None:
    if run.row.soup:
        return None
    return run_command(study.recipe, study.run_settings(run.row, run.seed, run.folder), run.directory)
