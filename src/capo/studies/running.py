"""Running a study: what is missing of each run, then what all of them say together."""

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from capo import pipeline
from capo.diffusion.saved import find_policy
from capo.engine.launch import LaunchError, processes
from capo.engine.progress import say
from capo.soups.merge import SoupSettings, soup
from capo.store import atomic
from capo.store.claim import LOCK, check_claimable, claim
from capo.store.errors import explain_os_errors
from capo.store.lock import hold_lock, wait_for_lock
from capo.store.manifest import pretty
from capo.studies.drawings import drawings, sheets
from capo.studies.outcome import study_results
from capo.studies.records import adopt_record, kept_elsewhere, measures_of
from capo.studies.runs import StudyRun, donors, runs_of, shared_artifacts
from capo.studies.study import FIGURES, Study
from capo.studies.study_page import render_study
from capo.studies.study_table import table
from capo.studies.warnings import warnings

FAILURES = (ValueError, OSError, ImportError, ArithmeticError, RuntimeError)
"""What ends one row and not the study."""


@dataclass(frozen=True)
class Outcome:
    """What a study has come to: its folder, the content of `results.json`, and the runs that failed now."""

    folder: Path
    results: dict[str, Any]
    failed: Mapping[str, str]
    """why, by `ROW, seed S`"""


def run_study(
    study: Study, folder: Path, *, seeds: Collection[int] | None = None, force: bool = False
) -> Outcome:
    """Run what is missing, of some `seeds` or of all; write the results, tables, page and figures.

    They are of all runs in `folder` that are done in the end, also of other seeds, and are written too
    when this is interrupted. Several processes may run one study, each with seeds of its own.

    An artifact that another run of this study, or of one beside it, has made from the same inputs is
    taken over from there. A run that fails does not stop the others. Raises `StudyError` for seeds that
    the study has not, `RuntimeError` when no run is done in the end, `WorkspaceError` when another
    process is running one of the seeds, `LaunchError` in several processes.
    """
    if processes().size > 1:
        raise LaunchError(
            "a study runs in one process: give `capo compare` without a launcher. With --seeds more GPUs can "
            "share it, each with seeds of its own"
        )
    chosen = study.only(seeds)
    _claim(folder)
    with ExitStack() as held:
        for seed in chosen.seeds:
            instead = f"give --seeds without {seed}"
            held.enter_context(hold_lock(folder / f".lock-seed-{seed}", instead=instead))
        with wait_for_lock(folder / LOCK):
            _write(folder / "study.yaml", _description(study))
        failed: dict[str, str] = {}
        try:
            _run_all(chosen, runs_of(chosen, folder), force, failed)
        except KeyboardInterrupt:
            say(f"{study.name}: interrupted; writing the table of what is done (Ctrl-C again leaves it)")
            _conclude(study, folder, failed)
            raise
        if (outcome := _conclude(study, folder, failed)) is None:
            reasons = [f"  {name}: {why}" for name, why in failed.items()]
            raise RuntimeError("\n".join([f"study {study.name}: no run is done", *reasons]))
    return outcome


def _claim(folder: Path) -> None:
    """Make the study's folder; raise `WorkspaceError` for one that has contents and is not a study's."""
    check_claimable(folder, "study", instead="Choose an empty or new directory with --to")
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with wait_for_lock(folder / LOCK):
        claim(folder, "study")


def _conclude(study: Study, folder: Path, failed: Mapping[str, str]) -> Outcome | None:
    """Write what the runs that are done say together; None when there is none."""
    with wait_for_lock(folder / LOCK):  # the last to write has seen what all have done
        states = [(run, "failed" if _name(run) in failed else _state(run)) for run in runs_of(study, folder)]
        whole = [run for run, state in states if state == "done"]
        if not whole:
            return None
        tried = study.only({run.seed for run, state in states if state in ("done", "failed")})
        unfinished = [
            {"row": run.row.name, "seed": run.seed, "state": state}
            for run, state in states
            if state not in ("done", "failed")
        ]
        results = study_results(tried, [measures_of(run) for run in whole], failed, unfinished)
        _write(folder / "results.json", pretty(results))
        _write(folder / "table.md", table(results, warnings(results, whole)))
        drawn = drawings(results, whole)
        _write(folder / "index.html", render_study(results, whole, drawn))
        with atomic.write_folder(folder / FIGURES) as figures:
            for name, svg in sheets(results, drawn).items():
                (figures / name).write_text(svg, encoding="utf-8")
    return Outcome(folder, results, failed)


def _state(run: StudyRun) -> str:
    try:
        return run.state
    except FAILURES as error:  # another process may be making it again
        return str(error)


def _run_all(study: Study, runs: Sequence[StudyRun], force: bool, failed: dict[str, str]) -> None:
    """Run what is not done; `failed` is told which could not, and why."""
    done = {_name(run) for run in runs if run.state == "done"}
    done |= _take_over_records(runs, done)
    say(_announcement(study, runs, len(done)))
    took: list[float] = []
    for number, run in enumerate(runs, 1):
        if _name(run) in done and run.state == "done":  # what it is made from may have been made again
            continue
        say(f"{study.name}: run {number} of {len(runs)}: {_name(run)}")
        started = time.monotonic()
        try:
            _run(run, force)
        except FAILURES as error:
            failed[_name(run)] = str(error)
            say(f"{study.name}: {_name(run)} failed: {error}")
            continue
        took.append(time.monotonic() - started)
        left = sum(_name(later) not in done for later in runs[number:])
        if left:
            say(f"{study.name}: about {_minutes(left * sum(took) / len(took))} left for {left} runs")


def _take_over_records(runs: Sequence[StudyRun], done: Collection[str]) -> set[str]:
    """Runs that a study beside this one has kept, but for those that a run to be made here needs."""
    kept, needed, taken = kept_elsewhere(runs[0].folder), set[Path](), set[str]()
    for run in reversed(runs):  # what a run needs comes before it
        if _name(run) in done:
            continue
        if run.made_from in kept and run.directory not in needed and not run.directory.exists():
            say(f"{run.row.name}, seed {run.seed}: taken over from {kept[run.made_from]}")
            adopt_record(run, kept[run.made_from])
            taken.add(_name(run))
        else:
            needed |= {*run.ingredients, *run.before}
    return taken


def _run(run: StudyRun, force: bool) -> None:
    for needed in (*run.ingredients, *run.before):
        if not needed.exists() and (record := needed.with_suffix(".json")).exists():
            raise ValueError(f"it needs {needed}, which was removed; without {record} that is made again")
    if run.row.soup:
        _merge(run)
    others = [each for each in donors(run.folder) if each != run.directory]
    pipeline.run(run.recipe, run.directory, force=force, stage=run.stage, donors=others)


def _merge(run: StudyRun) -> None:
    """Make the soup, unless it is there and made of the policies that are there now."""
    if run.merged:
        return
    for directory in run.ingredients:
        find_policy(directory)  # says which is not there, before the soup that there is goes
    if run.soup.exists():
        atomic.remove(run.soup)
    soup(run.ingredients, run.soup, SoupSettings(run.row.interpolation), run.weights)


def _announcement(study: Study, runs: Sequence[StudyRun], done: int) -> str:
    counts = shared_artifacts(runs).items()
    shared = [f"{kind} ({different} for {uses})" for kind, (different, uses) in counts if different < uses]
    told = f"; shared: {', '.join(shared)}" if shared else ""
    rows, seeds = len(study.rows), len(study.seeds)
    return f"{study.name}: {rows} rows × {seeds} seeds = {len(runs)} runs, {done} done already{told}"


def _name(run: StudyRun) -> str:
    return f"{run.row.name}, seed {run.seed}"


def _description(study: Study) -> str:
    """The study as a file that makes the same one; rows that belong to a front come with it."""
    mixed = {name for front in study.fronts for name in front.soups}
    rows = [
        {"name": row.name, "set": row.own}
        | ({"tune": row.tune} if row.tune else {})
        | ({"start": row.start} if row.start else {})
        | ({"soup": list(row.soup)} if row.soup else {})
        | ({"weights": list(row.weights)} if row.weights else {})
        | ({"interpolation": row.interpolation} if row.interpolation != "slerp" else {})
        for row in study.rows
        if row.name not in mixed
    ]
    fronts = [{"name": each.name, "of": list(each.of), "points": each.points} for each in study.fronts]
    values = {
        "name": study.name,
        "title": study.title,
        "recipe": study.recipe,
        "set": study.shared,
        "seeds": list(study.seeds),
        "rows": rows,
        "fronts": fronts,
        "against": study.against,
        "quick": study.quick_settings,
    }
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _write(path: Path, text: str) -> None:
    with atomic.write_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _minutes(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
