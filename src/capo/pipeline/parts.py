"""Making a part of the shards of a run, at the same time as other commands that make the other parts.

The commands share the run directory and nothing else. None of them commits an artifact: a command without a
part makes the remaining shards, commits, and continues.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from capo.engine.launch import LaunchError, check_launch, processes
from capo.engine.part_executor import Part, PartExecutor, ShardsLeft
from capo.engine.progress import say
from capo.pipeline import preflight
from capo.pipeline.outlook import Outlook
from capo.pipeline.states import ArtifactStatus, fingerprint, reject_stale
from capo.recipe import Recipe
from capo.store import Run, WorkspaceError
from capo.store.errors import LeftToMain
from capo.store.step import Job, Step


@dataclass(frozen=True)
class PartResult:
    """What a command with a part did for artifacts that are made together."""

    artifacts: tuple[str, ...]
    made: int
    """Shards that this command made."""
    left: int
    """Shards that were missing when it started and belong to other parts."""


def run_part(
    recipe: Recipe,
    directory: str | Path,
    part: Part,
    stage: str | None = None,
    within: tuple[str, ...] = ("",),
) -> list[PartResult]:
    """Make the shards of `part` of all artifacts of `stage`, or of the run, that can be made now.

    `within` has the beginnings of the names of these artifacts.
    Raises `WorkspaceError` if there are none: what they are made from is not complete, or is not made in
    shards. Raises `StaleArtifact` before any work if inputs changed.
    """
    check_launch(recipe.train.sharding)
    if processes().size > 1:
        raise LaunchError("--shard is for commands without a launcher; torchrun's processes share all shards")
    outlook = Outlook.of(recipe, Path(directory), stage, within)
    reject_stale(outlook.wanted_states, outlook.run)
    ready = [step for step in outlook.waiting if step.sharded and _made(step.upstream, outlook.states)]
    if not ready:
        _explain(outlook.waiting, outlook.states)
        return []
    begun = {step.stage for step in ready}
    making = [step for step in outlook.waiting if step.stage in begun]
    preflight.require(recipe, directory, making, ready)
    with Run.share(directory) as shared:
        return [
            _make(list(together), recipe, shared, part)
            for _, together in groupby(ready, lambda step: step.make)
        ]


def _made(names: Sequence[str], states: Mapping[str, ArtifactStatus]) -> bool:
    return all(states[name].state == "done" for name in names)


def _explain(waiting: Sequence[Step], states: Mapping[str, ArtifactStatus]) -> None:
    """Raise `WorkspaceError` that says why there is nothing to make in parts, unless all is done."""
    if not waiting:
        return
    step = waiting[0]
    if missing := [name for name in step.upstream if states[name].state != "done"]:
        raise WorkspaceError(
            f"{step.artifact} needs {', '.join(missing)}, which --shard does not complete; first run "
            f"`capo {states[missing[0]].stage}` without --shard, with the same recipe and --run"
        )
    raise WorkspaceError(
        f"{step.artifact} is not made in shards; run `capo {step.stage}` without --shard, with the same "
        "recipe and --run"
    )


def _make(steps: Sequence[Step], recipe: Recipe, run: Run, part: Part) -> PartResult:
    """Make the part's shards of the artifacts that one call makes together."""
    artifacts = tuple(run.artifact(step.artifact) for step in steps)
    for step, artifact in zip(steps, artifacts, strict=True):
        artifact.begin_shared(fingerprint(step, run))
    made = left = 0
    try:
        steps[0].make(Job(recipe, run, artifacts, PartExecutor(part)))
    except ShardsLeft as shards:
        made, left = shards.made, shards.left
    except LeftToMain:
        pass  # all shards are there
    names = ", ".join(artifact.name for artifact in artifacts)
    say(f"{names}: {made} shards made, {left} left to others")
    return PartResult(tuple(artifact.name for artifact in artifacts), made, left)
