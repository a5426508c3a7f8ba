"""Run what is missing of a study's runs, reusing artifacts and records of other runs."""

import time
from collections.abc import Collection, Sequence
from pathlib import Path

from capo import pipeline
from capo.diffusion.saved import find_policy
from capo.engine.progress import say
from capo.soups.merge import SoupSettings, soup
from capo.store import atomic
from capo.studies.run_records import adopt_record, records_elsewhere
from capo.studies.study import Study
from capo.studies.study_run import RUN_ERRORS, StudyRun, artifact_uses, donor_directories


def run_missing(study: Study, runs: Sequence[StudyRun], force: bool, failed: dict[str, str]) -> None:
    """Run what is not done; adds the runs that fail to `failed`, with the reason."""
    done: set[str] = set()
    for run in runs:
        try:
            if run.state == "done":
                done.add(run.name)
        except RUN_ERRORS as error:
            add_failure(study, run, error, failed)
    done |= _reuse_records(runs, done, failed)
    say(_announcement(study, runs, len(done)))
    durations: list[float] = []
    for number, run in enumerate(runs, 1):
        if run.name in failed:
            continue
        started = time.monotonic()
        try:
            if run.name in done and run.state == "done":  # its inputs may have been remade in the meantime
                continue
            say(f"{study.name}: run {number} of {len(runs)}: {run.name}")
            _run(run, force)
        except RUN_ERRORS as error:
            add_failure(study, run, error, failed)
            continue
        durations.append(time.monotonic() - started)
        left = sum(later.name not in {*done, *failed} for later in runs[number:])
        if left:
            mean = sum(durations) / len(durations)
            say(f"{study.name}: {left} runs left, about {_minutes(left * mean)}")


def add_failure(study: Study, run: StudyRun, error: Exception, failed: dict[str, str]) -> None:
    """Add a run that cannot be made or read to `failed`, and report it."""
    failed[run.name] = str(error)
    say(f"{study.name}: {run.name} failed: {error}")


def _reuse_records(runs: Sequence[StudyRun], done: Collection[str], failed: Collection[str]) -> set[str]:
    """Adopt records from the studies in the same folder, except of runs whose policy another run needs."""
    records, needed, adopted = records_elsewhere(runs[0].folder), set[Path](), set[str]()
    for run in reversed(runs):  # a run comes after the runs that it needs
        if run.name in done:
            continue
        free = run.name not in failed and run.directory not in needed and not run.directory.exists()
        if free and run.made_from in records:
            say(f"{run.name}: reused from {records[run.made_from]}")
            adopt_record(run, records[run.made_from])
            adopted.add(run.name)
        else:
            needed |= {*run.ingredients, *run.before}
    return adopted


def _run(run: StudyRun, force: bool) -> None:
    for needed in (*run.ingredients, *run.before):
        if not needed.exists() and (record := needed.with_suffix(".json")).exists():
            raise ValueError(f"needs {needed}, which was removed; delete {record} to make it again")
    if run.row.soup:
        _merge(run)
    donors = [directory for directory in donor_directories(run.folder) if directory != run.directory]
    pipeline.run(run.recipe, run.directory, force=force, stage=run.stage, donors=donors)


def _merge(run: StudyRun) -> None:
    """Make the soup, unless it exists and is up to date."""
    if run.merged:
        return
    for directory in run.ingredients:
        find_policy(directory)  # raises for a missing policy before the existing soup is removed
    if run.soup.exists():
        atomic.remove(run.soup)
    soup(run.ingredients, run.soup, SoupSettings(run.row.interpolation), run.weights)


def _announcement(study: Study, runs: Sequence[StudyRun], done: int) -> str:
    counts = {kind: (len({use.key for use in uses}), len(uses)) for kind, uses in artifact_uses(runs).items()}
    shared = [
        f"{kind} ({different} for {uses})" for kind, (different, uses) in counts.items() if different < uses
    ]
    sharing = f"; shared: {', '.join(shared)}" if shared else ""
    rows, seeds = len(study.rows), len(study.seeds)
    return f"{study.name}: {rows} rows × {seeds} seeds = {len(runs)} runs, {done} done already{sharing}"


def _minutes(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
