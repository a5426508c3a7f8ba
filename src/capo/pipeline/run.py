"""A recipe's stages in order: what each depends on, what is done, and running the rest.

    prompts ─► samples ─► scores ─► pairs ─► train ─► evaluate ─► report
                                   validation ─┘  baseline ─┘

Every artifact is made from inputs: recipe fields, weights, and the digests of the artifacts before
it. One whose inputs are what it was made from is done; otherwise it is stale, and the fields that
differ say why.
"""

import importlib
import resource
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from capo.engine import device as runtime
from capo.engine.launch import COMMAND, LaunchError, check_launch, processes
from capo.engine.progress import say
from capo.pipeline.graph import Step, steps_of
from capo.pipeline.reuse import take_over
from capo.recipe import Recipe
from capo.store.artifact import WatchedArtifact
from capo.store.manifest import differences, explain_change
from capo.store.run_directory import Artifact, Run, StaleArtifact, WorkspaceError

STAGES = ("prompts", "generate", "score", "pair", "train", "evaluate", "report")

State = Literal["done", "partial", "stale", "missing"]


@dataclass(frozen=True)
class ArtifactStatus:
    """Where an artifact stands; `why` says it in a few words, empty when done."""

    name: str
    stage: str
    state: State
    why: str = ""
    changes: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class StageResult:
    """What became of one artifact in a run: found done, here or by a donor (`skipped`), or made."""

    name: str
    skipped: bool
    seconds: float
    summary: Mapping[str, Any]


@dataclass(frozen=True)
class RunResult:
    """What a run has come to.

    `report` is the page and `results` the win-rates and judgements (`evaluate/results.json`); None
    as long as their stages are not done.
    """

    directory: Path
    stages: tuple[StageResult, ...]
    report: Path | None
    results: dict[str, Any] | None


def run(
    recipe: Recipe,
    directory: str | Path,
    *,
    force: bool = False,
    stage: str | None = None,
    donors: Sequence[Path] = (),
) -> RunResult:
    """Make everything that is not yet done, or only what `stage` makes.

    Goes on where an earlier run stopped. What one of `donors`, other run directories, has made from
    the same inputs is taken over from there. Raises `StaleArtifact` before any work when something was
    made from other settings, unless `force`: then it is made again, as is what depends on it.
    """
    if processes().size == 1:
        return _run(recipe, directory, force, stage, donors)
    if stage != "train":
        raise LaunchError(
            f"only `capo train` runs in several processes, not `capo {stage or 'run'}`: give that without a "
            f"launcher, and `{COMMAND}` once the pairs are there"
        )
    from capo.engine.ranks import joined

    with joined(recipe.engine.device) as group:
        return _run(recipe, directory, force, stage, donors, group.wait)


def _run(
    recipe: Recipe,
    directory: str | Path,
    force: bool,
    stage: str | None,
    donors: Sequence[Path],
    meet: Callable[[], None] = lambda: None,
) -> RunResult:
    """Run, having let the other processes of the command look before the leading one changes anything."""
    if stage in (None, "train"):
        check_launch(recipe.train.sharding)
    if recipe.start is not None and Path(recipe.start.run).resolve() == Path(directory).resolve():
        raise WorkspaceError(f"start.run: {directory} is this run's own directory; give another --run")
    steps = steps_of(recipe)
    found = _status(steps, Run(directory))
    if stage is not None:
        _check_ready(stage, steps, found)
    steps = [s for s in steps if s.artifact in found and stage in (None, s.stage)]
    wanted = [found[s.artifact] for s in steps]
    if not force:
        _refuse_stale(wanted)
    if all(s.state == "done" for s in wanted):
        done = Run(directory)
        return _result(done, [_found_done(done.artifact(s.artifact)) for s in steps])
    meet()
    if not processes().leads:
        return _watch(recipe, directory, meet)
    if _settle(recipe, [s for s in steps if found[s.artifact].state != "done"]):
        names = {step.artifact for step in steps}
        steps = [step for step in steps_of(recipe) if step.artifact in names]
    with Run.open(directory, recipe) as opened:
        made = [_make(together, recipe, opened, force, donors) for together in _together(steps)]
        result = _result(opened, [each for results in made for each in results])
        meet()
        return result


def _watch(recipe: Recipe, directory: str | Path, meet: Callable[[], None]) -> RunResult:
    """Take part in the training that the leading process writes down."""
    from capo.training.train import train

    watched = Run(directory)
    train(recipe, watched, WatchedArtifact(watched, "train"))
    meet()
    return _result(watched, [_found_done(watched.artifact("train"))])


def status(recipe: Recipe, directory: str | Path) -> list[ArtifactStatus]:
    """Where every artifact of a run stands, in the order they are made."""
    return list(_status(steps_of(recipe), Run(directory)).values())


# What is done.


def _status(steps: list[Step], opened: Run) -> dict[str, ArtifactStatus]:
    found: dict[str, ArtifactStatus] = {}
    for step in steps:
        found[step.artifact] = _step_status(step, opened, found)
    # A run of before has in its `train` what is an artifact of its own now.
    missed = {s.artifact for s in steps if s.serves is None or found[s.serves].state != "done"}
    return {name: each for name, each in found.items() if name in missed or each.state == "done"}


def _step_status(step: Step, opened: Run, found: Mapping[str, ArtifactStatus]) -> ArtifactStatus:
    artifact = opened.artifact(step.artifact)

    def state(state: State, why: str = "", changes: Mapping[str, Any] | None = None) -> ArtifactStatus:
        return ArtifactStatus(step.artifact, step.stage, state, why, changes or {})

    begun = artifact.begun()
    if begun is None:
        waiting = [u for u in step.upstream if found[u].state != "done"]
        return state("missing", f"needs {', '.join(waiting)}" if waiting else "not begun")
    known = [u for u in step.upstream if found[u].state == "done"]
    compared = {f: v for f, v in begun.items() if f.removeprefix("@") in known or f[0] != "@"}
    if changes := differences(compared, step.fields | _digests(opened, known)):
        why = "; ".join(explain_change(f, *values) for f, values in changes.items())
        return state("stale", why, changes)
    if outdated := [u for u in step.upstream if found[u].state == "stale"]:
        return state("stale", f"{', '.join(outdated)} changed")
    manifest = artifact.manifest()
    if manifest is None:
        return state("partial", "not finished")
    if lost := artifact.lost(manifest):
        return state("partial", f"{lost} is missing or cut short")
    return state("done")


def _digests(opened: Run, upstream: tuple[str, ...] | list[str]) -> dict[str, str]:
    return {f"@{name}": opened.artifact(name).digest for name in upstream}


def _refuse_stale(wanted: list[ArtifactStatus]) -> None:
    stale = [each for each in wanted if each.state == "stale"]
    if stale:
        raise StaleArtifact(stale[0].name, stale[0].changes, [each.name for each in stale[1:]])


def _check_ready(stage: str, steps: list[Step], found: Mapping[str, ArtifactStatus]) -> None:
    made = {step.artifact for step in steps if step.stage == stage}
    needed = {u for step in steps if step.artifact in made for u in step.upstream} - made
    for name in (s.artifact for s in steps):
        if name in needed and found[name].state != "done":
            raise WorkspaceError(
                f"{stage} needs {name}, which is {found[name].state} ({found[name].why}); "
                f"first give `capo {found[name].stage}` with the same recipe and --run, or `capo run` for all"
            )


# Doing the rest.


def _settle(recipe: Recipe, waiting: list[Step]) -> bool:
    """Learn which weights the waiting steps will use, where a recipe says no more than a name on the Hub."""
    from capo.rewards import settle_weights

    used = {field for step in waiting for field in step.fields}
    learned = [settle_weights(r) for r in recipe.rewards if f"rewards.{r.name}.weights" in used]
    return any(learned)


def _together(steps: list[Step]) -> list[list[Step]]:
    """The steps in order, with those of all rewards as one: they look at the same images."""
    return [list(group) for _, group in groupby(steps, lambda s: s.stage if s.reward else s.artifact)]


def _make(
    steps: list[Step], recipe: Recipe, opened: Run, force: bool, donors: Sequence[Path]
) -> list[StageResult]:
    results: dict[str, StageResult] = {}
    waiting: list[Step] = []
    for step in steps:
        artifact = opened.artifact(step.artifact)
        inputs = step.fields | _digests(opened, step.upstream)
        if artifact.done and not differences(artifact.begun() or {}, inputs):
            say(f"{artifact.name}: done already")
            results[step.artifact] = _found_done(artifact)
        elif take_over(artifact, inputs, donors, force):
            results[step.artifact] = _found_done(artifact)
        else:
            artifact.begin(inputs, force=force)
            waiting.append(step)
    if waiting:
        for step, seconds in zip(waiting, _work(waiting, recipe, opened), strict=True):
            results[step.artifact] = _made(step, recipe, opened, round(seconds, 3))
    return [results[step.artifact] for step in steps]


def _work(steps: list[Step], recipe: Recipe, opened: Run) -> list[float]:
    """Run the stage that makes `steps`; the seconds that each took."""
    name = steps[0].part or steps[0].stage
    function = getattr(importlib.import_module(f"capo.stages.{name}"), name)
    artifacts = [opened.artifact(step.artifact) for step in steps]
    if steps[0].reward is not None:
        rewards = [step.reward for step in steps]
        return function(recipe, opened, list(zip(artifacts, rewards, strict=True)))
    started = time.monotonic()
    function(recipe, opened, *artifacts)
    return [time.monotonic() - started]


def _made(step: Step, recipe: Recipe, opened: Run, seconds: float) -> StageResult:
    artifact = opened.artifact(step.artifact)
    if not artifact.done:
        raise RuntimeError(f"the {step.stage} stage ended without committing {step.artifact}")
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    opened.record_timing(
        step.artifact,
        seconds=seconds,
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        # Before torch is there, nothing has run anywhere else.
        device=runtime.device_name(recipe.engine) if "torch" in sys.modules else "cpu",
        host=socket.gethostname(),
        finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    return StageResult(step.artifact, False, seconds, artifact.summary)


def _found_done(artifact: Artifact) -> StageResult:
    return StageResult(artifact.name, True, 0.0, artifact.summary)


def _result(opened: Run, stages: list[StageResult]) -> RunResult:
    report, evaluate = opened.artifact("report"), opened.artifact("evaluate")
    return RunResult(
        opened.path,
        tuple(stages),
        report.folder / "index.html" if report.done else None,
        evaluate.read_json("results.json") if evaluate.done else None,
    )
