"""Running a recipe: make every artifact that is not up to date.

An artifact is made from inputs: recipe fields, weights, and the digests of upstream artifacts. It is stale
when the recipe gives other inputs; the fields that differ say why.
"""

import resource
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from capo.engine.events import Callback, StageResult, calling, emit
from capo.engine.executors import open_executor
from capo.engine.launch import LAUNCHER, check_launch, idle_gpus
from capo.engine.progress import say
from capo.engine.shard_work import Executor
from capo.pipeline import graph, preflight
from capo.pipeline.costs import replacing
from capo.pipeline.outlook import Outlook
from capo.pipeline.reuse import keep_unchanged, own_donors, reuse
from capo.pipeline.stage_lines import stage_line
from capo.pipeline.states import (
    check_identified,
    fingerprint,
    reject_stale,
    stale_names,
    with_recorded,
)
from capo.pipeline.trackers import calling_trackers
from capo.recipe import EngineSection, Recipe
from capo.reporting.results_schema import Results
from capo.store import Artifact, Run, WorkspaceError
from capo.store.manifest import differences
from capo.store.step import Job, Step

QUICK = ("prompts", "pair", "report")
"""Stages that one process makes in little time, whatever a launcher announces."""


@dataclass(frozen=True)
class RunResult:
    """The outcome of a run.

    `report` is the page and `results` the win-rates and judgments (`evaluate/results.json`); each is None
    until its stage is done. `benchmarks` has the `results.json` of every benchmark that is done, by name.
    """

    directory: Path
    stages: tuple[StageResult, ...]
    report: Path | None
    results: dict[str, Any] | None
    benchmarks: dict[str, Any] = field(default_factory=dict)

    @property
    def evaluation(self) -> Results | None:
        """`results` with typed fields, such as `evaluation.rewards[0].win_rate`."""
        return None if self.results is None else Results.model_validate(self.results)


def run(
    recipe: Recipe,
    directory: str | Path,
    *,
    force: bool = False,
    stage: str | None = None,
    donors: Sequence[Path] = (),
    within: tuple[str, ...] = ("",),
    callbacks: Sequence[Callback] = (),
) -> RunResult:
    """Make every artifact that is not done, or only those of `stage`; resumes an interrupted run.

    `within` has the beginnings of the names of artifacts to make. Calls every one of `callbacks` with the
    events of the run (see `capo.engine.events`), as they happen. Reuses artifacts that a run directory among
    `donors` has made from the same inputs. Raises `StaleArtifact` before any work if the inputs of an
    artifact changed; with `force`, it is remade together with everything that depends on it. Raises
    `WorkspaceError` if the directory has contents but is not capo's.
    """
    if stage not in QUICK:
        check_launch(recipe.train.sharding)
    request = _Request(recipe, Path(directory), force, stage, donors, within)

    def make(executor: Executor) -> RunResult:
        with calling(callbacks):  # in the main process only
            return _run(request, executor)

    with open_executor(recipe.engine, request.directory) as executor:
        return executor.in_main(lambda: make(executor))


@dataclass(frozen=True)
class _Request:
    """The arguments of `run`."""

    recipe: Recipe
    directory: Path
    force: bool
    stage: str | None
    donors: Sequence[Path]
    within: tuple[str, ...]


def _run(request: _Request, executor: Executor) -> RunResult:
    recipe, directory, stage = request.recipe, request.directory, request.stage
    if recipe.start is not None and Path(recipe.start.run).resolve() == directory.resolve():
        raise WorkspaceError(
            f"start.run: {directory} is the directory of this run itself; choose another --run"
        )
    outlook = Outlook.of(recipe, directory, stage, request.within)
    run, waiting, steps = outlook.run, outlook.waiting, list(outlook.wanted)
    _check_sources(recipe, run, waiting, outlook.unfinished)
    if not request.force:
        reject_stale(outlook.wanted_states, run)
    if not waiting:
        return _result(recipe, run, [_reported(_skipped(run.artifact(step.artifact))) for step in steps])
    for step in waiting:
        resume = outlook.states[step.artifact].state == "partial"
        run.artifact(step.artifact).check_no_foreign_files(resume=resume)
    preflight.require(recipe, directory, waiting, outlook.unfinished)
    if _pin_weights(recipe, waiting):  # the commits are part of the inputs
        names = {step.artifact for step in steps}
        steps = [step for step in graph.steps_of(recipe) if step.artifact in names]
    with Run.open(directory, recipe) as opened, calling_trackers(recipe, opened):
        if replaced := stale_names(outlook.wanted_states):
            say(replacing(opened, replaced))
        request = replace(request, donors=[*request.donors, *own_donors(directory)])
        results: list[StageResult] = []
        try:
            for _, together in groupby(steps, lambda step: step.make):
                results += _make(list(together), request, opened, executor)
        except BaseException:
            if _put_back(opened, steps) and all(result.skipped for result in results):
                opened.restore_recipe()
            raise
        return _result(recipe, opened, results)


def _check_sources(recipe: Recipe, run: Run, waiting: Sequence[Step], unfinished: Sequence[Step]) -> None:
    """Raise an error, with all problems, if a source of a waiting step cannot be identified."""
    try:
        check_identified(waiting, run)
    except ValueError:
        preflight.require(recipe, run.path, waiting, unfinished)
        raise


def _put_back(run: Run, steps: Sequence[Step]) -> bool:
    """Put back what the artifacts replaced that failed before they had a file; return whether any did."""
    back = [step.artifact for step in steps if run.artifact(step.artifact).put_back()]
    if back:
        say(f"Nothing was lost: the former {', '.join(back)} are back")
    return bool(back)


def _pin_weights(recipe: Recipe, waiting: Sequence[Step]) -> bool:
    """Look up the commits of reward weights that the recipe names by Hub id; return whether any is new."""
    from capo.rewards import pin_weights

    used = {name for step in waiting for name in step.inputs}
    pinned = [pin_weights(r) for r in recipe.rewards if f"rewards.{r.name}.weights" in used]
    return any(pinned)


def _make(steps: Sequence[Step], request: _Request, run: Run, executor: Executor) -> list[StageResult]:
    """Skip, reuse or make the artifacts of steps that one call makes together."""
    recipe = request.recipe
    results: dict[str, StageResult] = {}
    waiting: list[Step] = []
    for step in steps:
        artifact, inputs = run.artifact(step.artifact), with_recorded(fingerprint(step, run), step, run)
        if artifact.done and not differences(artifact.begun() or {}, inputs):
            say(f"{artifact.name}: up to date")
            results[step.artifact] = _reported(_skipped(artifact))
        elif reuse(artifact, inputs, request.donors, request.force):
            results[step.artifact] = _reported(_skipped(artifact))
        else:
            artifact.begin(inputs, force=request.force)
            keep_unchanged(artifact, step)
            waiting.append(step)
    if waiting:
        job = Job(recipe, run, tuple(run.artifact(step.artifact) for step in waiting), executor)
        if waiting[0].sharded:
            _suggest_all_gpus(recipe.engine)
        started = time.monotonic()
        waiting[0].make(job)
        share = (time.monotonic() - started) / len(waiting)
        for artifact in job.artifacts:
            seconds = job.seconds.get(artifact.name, share)
            results[artifact.name] = _reported(_made(artifact, recipe.engine, run, seconds))
    return [results[step.artifact] for step in steps]


@cache  # once for a command
def _suggest_all_gpus(engine: EngineSection) -> None:
    """Say how to use all GPUs of this machine, if the command uses one of several."""
    if engine.executor in ("auto", "local") and engine.device in ("auto", "cuda") and (count := idle_gpus()):
        command = f"{LAUNCHER.format(count)} capo ..."
        say(f"This machine has {count} GPUs, and this command uses one. To use all of them: {command}")


def _made(artifact: Artifact, engine: EngineSection, run: Run, seconds: float) -> StageResult:
    if not artifact.done:
        raise RuntimeError(f"the stage that makes {artifact.name} ended without committing it")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes per unit of ru_maxrss
    run.record_timing(
        artifact.name,
        seconds=round(seconds, 3),
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        device=_device_name(engine),
        host=socket.gethostname(),
        finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    return StageResult(artifact.name, False, round(seconds, 3), artifact.summary)


def _device_name(engine: EngineSection) -> str:
    """Return the device that work ran on; with Ray only that, since its workers may have different ones."""
    from capo.engine.device import device_name, select_device

    if engine.executor == "ray":
        return "ray"
    # Without torch, nothing ran on another device.
    return device_name(select_device(engine)) if "torch" in sys.modules else "cpu"


def _reported(result: StageResult) -> StageResult:
    """Return the result, after the callbacks have received it and a line has said what was made."""
    if not result.skipped:
        say(stage_line(result))
    emit(result)
    return result


def _skipped(artifact: Artifact) -> StageResult:
    return StageResult(artifact.name, True, 0.0, artifact.summary)


def _result(recipe: Recipe, run: Run, stages: Sequence[StageResult]) -> RunResult:
    from capo.benchmarks.artifacts import RESULTS, artifact_name

    measured = {s.name: run.artifact(artifact_name(s.name, "results")) for s in recipe.benchmarks}
    report, evaluate = run.artifact("report"), run.artifact("evaluate")
    return RunResult(
        run.path,
        tuple(stages),
        report.folder / "index.html" if report.done else None,
        evaluate.read_json("results.json") if evaluate.done else None,
        {name: artifact.read_json(RESULTS) for name, artifact in measured.items() if artifact.done},
    )
