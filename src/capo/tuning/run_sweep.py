"""Run a sweep: what all values share is made once, then one training per value."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capo import pipeline
from capo.engine.events import Event, ValidationStep
from capo.engine.launch import LaunchError, processes
from capo.engine.progress import say
from capo.pipeline.costs import duration
from capo.pipeline.preflight import warnings_once
from capo.pipeline.reuse import swept_runs
from capo.store import atomic
from capo.store.claim import LOCK
from capo.store.lock import hold_lock
from capo.store.manifest import pretty
from capo.store.run_directory import SWEEP
from capo.training.guards import TrainingDiverged
from capo.tuning.choice import choose, falls_behind
from capo.tuning.sweep import Sweep, value_folder
from capo.tuning.sweep_page import render_sweep
from capo.tuning.sweep_results import sweep_results
from capo.tuning.tuned_recipe import tuned_recipe
from capo.tuning.value_trial import OUTCOME, Trial, finished_trial, read_trial, write_outcome

SHARED = ("prompts", "pool", "samples", "scores/", "pairs", "validation")
"""Artifacts that no value of β affects: the beginnings of their names."""


@dataclass(frozen=True)
class SweepOutcome:
    """The run directory of a sweep, and the content of its `results.json`."""

    directory: Path
    results: dict[str, Any]
    recipe: Path | None
    """The file with the recipe and the chosen value; None without a conclusion."""


class _Behind(Exception):
    """A training that has fallen behind; its run directory can be resumed."""


@warnings_once()
def run_sweep(sweep: Sweep, directory: Path, *, force: bool = False) -> SweepOutcome:
    """Train every value, in `directory`, and write the curve, the choice, and the recipe with it.

    Resumes an interrupted sweep. Raises `RecipeError` for a recipe that cannot be tuned, `LaunchError` in a
    launch of several processes, and `RuntimeError` if no training could be completed.
    """
    sweep.check()
    if processes().size > 1:
        raise LaunchError(
            "a sweep runs in one process: start `capo tune` without a launcher. To make the samples and "
            "scores with several GPUs, first start `capo generate` and `capo score` with the launcher"
        )
    pipeline.run(sweep.recipe, directory, force=force, within=SHARED)
    folder = directory / SWEEP
    folder.mkdir(exist_ok=True)
    with hold_lock(folder / LOCK):
        trials = _trials(sweep, directory, force)
        return _write(sweep, directory, trials)


def _trials(sweep: Sweep, directory: Path, force: bool) -> list[Trial]:
    trials: list[Trial] = []
    waiting, started = list(sweep.first), time.monotonic()
    trained = 0
    while waiting:
        beta = waiting.pop(0)
        trial = finished_trial(sweep.of(beta), value_folder(directory, beta))
        if trial is None:
            count = len(trials) + 1 + len(waiting)
            more = "" if sweep.named else " or more"
            say(f"tune: β {beta:g}, value {len(trials) + 1} of {count}{more}")
            trial, trained = _train(sweep, beta, directory, trials, force), trained + 1
            per_value = duration((time.monotonic() - started) / trained)
            say(f"tune: {_ended(trial)}; about {per_value} per value")
        trials.append(trial)
        if not waiting and (beta_next := sweep.further(trials)) is not None:
            say(f"tune: the best value so far is at the edge; trying β {beta_next:g} too")
            waiting.append(beta_next)
    return trials


def _train(sweep: Sweep, beta: float, directory: Path, others: Sequence[Trial], force: bool) -> Trial:
    """Train one value until it ends, diverges or falls behind."""
    recipe, folder = sweep.of(beta), value_folder(directory, beta)

    def watch(event: Event) -> None:
        if isinstance(event, ValidationStep):
            why = falls_behind(read_trial(recipe, folder), others, event.step, sweep.last_step)
            if why is not None:
                raise _Behind(why)

    if (folder / OUTCOME).exists():  # of other settings
        atomic.remove(folder / OUTCOME)
    donors = [directory, *(run for run in swept_runs(directory) if run != folder)]
    try:
        pipeline.run(recipe, folder, force=force, within=(*SHARED, "train"), donors=donors, callbacks=[watch])
    except _Behind as stopped:
        write_outcome(folder, "behind", str(stopped))
        return read_trial(recipe, folder, "behind", str(stopped))
    except TrainingDiverged as error:
        write_outcome(folder, "diverged", str(error))
        return read_trial(recipe, folder, "diverged", str(error))
    return read_trial(recipe, folder)


def _ended(trial: Trial) -> str:
    if trial.ending != "done":
        return f"β {trial.beta:g} stopped: {trial.why}"
    best = trial.best
    assert best is not None
    some = f" on {best.scored} of {len(best.training)} prompts" if best.scored < len(best.training) else ""
    return f"β {trial.beta:g}: win-rate {100 * best.rate:.1f}%{some} at step {best.step}"


def _write(sweep: Sweep, directory: Path, trials: Sequence[Trial]) -> SweepOutcome:
    choice = choose(trials)
    if choice.best is None:
        reasons = [f"  β {trial.beta:g}: {trial.why}" for trial in trials if trial.why]
        reasons += [f"  β {beta:g}: {why}" for beta, why in choice.hacking.items()]
        raise RuntimeError("\n".join(["no value of β can be chosen", *reasons]))
    folder = directory / SWEEP
    results = sweep_results(sweep, trials, choice)
    _text(folder / "results.json", pretty(results))
    _text(folder / "index.html", render_sweep(results))
    path = folder / "recipe.yaml"
    if choice.chosen is None:
        if path.exists():
            atomic.remove(path)
        return SweepOutcome(directory, results, None)
    _text(path, tuned_recipe(sweep.tuned(choice.chosen), path))
    return SweepOutcome(directory, results, path)


def _text(path: Path, text: str) -> None:
    with atomic.write_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
