"""Run a study and write its results."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capo.engine.launch import LaunchError, processes
from capo.engine.progress import say
from capo.store import atomic
from capo.store.claim import LOCK, check_claimable, claim
from capo.store.errors import explain_os_errors
from capo.store.lock import hold_lock, wait_for_lock
from capo.store.manifest import pretty
from capo.studies.run_measures import RunMeasures
from capo.studies.run_missing import add_failure, run_missing
from capo.studies.run_records import measures_of
from capo.studies.study import Study
from capo.studies.study_checks import FIGURES
from capo.studies.study_figures import figure_files, study_figures
from capo.studies.study_file import dump_study
from capo.studies.study_page import render_study
from capo.studies.study_results import study_results
from capo.studies.study_run import RUN_ERRORS, StudyRun, runs_of
from capo.studies.study_table import study_table
from capo.studies.study_warnings import study_warnings


@dataclass(frozen=True)
class StudyOutcome:
    """The folder of a study, the content of its `results.json`, and the runs that failed this time."""

    folder: Path
    results: dict[str, Any]
    failed: Mapping[str, str]
    """Reason by `ROW, seed S`."""


def run_study(
    study: Study, folder: Path, *, seeds: Collection[int] | None = None, force: bool = False
) -> StudyOutcome:
    """Run what is missing for `seeds`, or for all seeds; write the results, tables, page and figures.

    The results cover all finished runs in `folder`, also of other seeds, and are written after an
    interruption too. Several processes may run one study at the same time with different seeds.

    A run reuses artifacts that another run of this study, or of a study in the same folder, made from the
    same inputs. A run that fails does not stop the others. Raises `StudyError` for unknown seeds,
    `RuntimeError` if no run is finished in the end, `WorkspaceError` if another process runs one of the
    seeds, and `LaunchError` in a launch of several processes.
    """
    if processes().size > 1:
        raise LaunchError(
            "a study runs in one process: start `capo compare` without a launcher. To use several GPUs, "
            "start one command per GPU with different --seeds"
        )
    chosen = study.only(seeds)
    _claim(folder)
    with ExitStack() as locks:
        for seed in chosen.seeds:
            instead = f"leave {seed} out of --seeds"
            locks.enter_context(hold_lock(folder / f".lock-seed-{seed}", instead=instead))
        with wait_for_lock(folder / LOCK):
            _write(folder / "study.yaml", dump_study(study))
        failed: dict[str, str] = {}
        try:
            run_missing(chosen, runs_of(chosen, folder), force, failed)
        except KeyboardInterrupt:
            say(f"{study.name}: interrupted; writing tables of the finished runs (Ctrl-C again skips this)")
            write_results(study, folder, chosen.seeds, failed)
            raise
        if (outcome := write_results(study, folder, chosen.seeds, failed)) is None:
            reasons = [f"  {name}: {why}" for name, why in failed.items()]
            raise RuntimeError("\n".join([f"study {study.name}: no run finished", *reasons]))
    return outcome


def _claim(folder: Path) -> None:
    """Create the study's folder; raise `WorkspaceError` if it has contents that are not a study's."""
    check_claimable(folder, "study", instead="Choose an empty or new directory with --to")
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with wait_for_lock(folder / LOCK):
        claim(folder, "study")


def write_results(
    study: Study, folder: Path, seeds: Collection[int], failed: dict[str, str]
) -> StudyOutcome | None:
    """Write the results of all finished runs; None if there are none.

    Adds runs of `seeds` whose measures cannot be read to `failed`, with the reason.
    """
    with wait_for_lock(folder / LOCK):  # so that the last process to write sees the runs of all
        runs = runs_of(study, folder)
        measured, unfinished = _measure(study, runs, seeds, failed)
        finished = [run for run in runs if run.name in measured]
        if not finished:
            return None
        tried = study.only({run.seed for run in runs if run.name in measured or run.name in failed})
        results = study_results(tried, list(measured.values()), failed, unfinished)
        _write(folder / "results.json", pretty(results))
        _write(folder / "table.md", study_table(results, study_warnings(results, finished)))
        figures = study_figures(results, finished)
        _write(folder / "index.html", render_study(results, finished, figures))
        with atomic.write_folder(folder / FIGURES) as target:
            for name, svg in figure_files(results, figures).items():
                (target / name).write_text(svg, encoding="utf-8")
    return StudyOutcome(folder, results, failed)


def _measure(
    study: Study, runs: Sequence[StudyRun], seeds: Collection[int], failed: dict[str, str]
) -> tuple[dict[str, RunMeasures], list[dict[str, Any]]]:
    """Return the measures of the finished runs by name, and row, seed and state of the unfinished ones."""
    measured: dict[str, RunMeasures] = {}
    unfinished: list[dict[str, Any]] = []
    for run in runs:
        if run.name in failed:
            continue
        try:
            if (state := run.state) == "done":
                measured[run.name] = measures_of(run)
                continue
        except RUN_ERRORS as error:
            if run.seed in seeds:
                add_failure(study, run, error, failed)
                continue
            state = str(error)  # another process may be remaking it
        unfinished.append({"row": run.row.name, "seed": run.seed, "state": state})
    return measured, unfinished


def _write(path: Path, text: str) -> None:
    with atomic.write_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
