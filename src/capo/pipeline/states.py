"""The states of a run's artifacts, with the reasons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from capo.pipeline import graph
from capo.pipeline.costs import with_costs
from capo.recipe import Recipe
from capo.store import Run, StaleArtifact, WorkspaceError
from capo.store.manifest import Unknown, differences, explain_change
from capo.store.step import StageName, Step

State = Literal["done", "partial", "stale", "missing"]


@dataclass(frozen=True)
class ArtifactStatus:
    """The state of an artifact; `why` explains it in a few words, empty when it is done."""

    name: str
    stage: StageName
    state: State
    why: str = ""
    changes: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    """Inputs that differ: field → (value the artifact was made from, value of the recipe)."""


def status(recipe: Recipe, directory: str | Path) -> list[ArtifactStatus]:
    """Return the state of every artifact of a run, in the order in which they are made.

    A directory where only another policy was evaluated has only the artifacts of that evaluation.
    """
    states = list(statuses(graph.steps_of(recipe), Run(directory)).values())
    begun = [state for state in states if state.state != "missing"]
    if recipe.evaluate.policy is not None and {state.stage for state in begun} == {"evaluate"}:
        return [state for state in states if state.stage == "evaluate"]
    return states


def verify(states: Sequence[ArtifactStatus], directory: str | Path) -> None:
    """Read every file of the artifacts that are done; raise `WorkspaceError` naming a damaged one."""
    run = Run(directory)
    for status in states:
        if status.state == "done":
            run.artifact(status.name).verify()


def statuses(steps: Sequence[Step], run: Run) -> dict[str, ArtifactStatus]:
    """Return the state of the artifact of every step, by name.

    Leaves out a missing artifact if the only artifact that reads it is done.
    """
    states: dict[str, ArtifactStatus] = {}
    for step in steps:
        states[step.artifact] = _step_status(step, run, states)
    served = {s.artifact for s in steps if s.needed_by is not None and states[s.needed_by].state == "done"}
    return {name: status for name, status in states.items() if name not in served or status.state == "done"}


def fingerprint(step: Step, run: Run) -> dict[str, Any]:
    """Return everything the artifact of `step` is made from: inputs, and digests of upstream artifacts."""
    return step.inputs | _digests(run, step.upstream)


def unidentified(inputs: Mapping[str, Any]) -> str:
    """Return why an input cannot be compared with what it was, such as a missing file; empty if all can."""
    return next((f"not compared: {value}" for value in inputs.values() if isinstance(value, Unknown)), "")


def with_recorded(inputs: Mapping[str, Any], step: Step, run: Run) -> dict[str, Any]:
    """Return inputs, and what upstream artifacts recorded for those that cannot be identified.

    Shows a finished run whose sources are gone.
    """
    recorded: dict[str, Any] = {}
    for name in step.upstream:
        recorded = (run.artifact(name).begun() or {}) | recorded
    return {
        field: recorded.get(field, value) if isinstance(value, Unknown) else value
        for field, value in inputs.items()
    }


def check_identified(steps: Sequence[Step], run: Run) -> None:
    """Raise `ValueError` if an input of a step can be neither identified nor looked up in the run."""
    for step in steps:
        if missing := unidentified(with_recorded(step.inputs, step, run)):
            raise ValueError(missing.removeprefix("not compared: "))


def stale_names(wanted: Sequence[ArtifactStatus]) -> list[str]:
    """Return the names of the artifacts that are stale."""
    return [status.name for status in wanted if status.state == "stale"]


def reject_stale(wanted: Sequence[ArtifactStatus], run: Run) -> None:
    """Raise `StaleArtifact` if any artifact is stale."""
    if stale := stale_names(wanted):
        changes = {status.name: status.changes for status in wanted if status.name in stale}
        raise StaleArtifact(changes, with_costs(run, stale))


def chosen(steps: Sequence[Step], stage: str | None, within: tuple[str, ...] = ("",)) -> list[Step]:
    """Return the steps of a stage, or of all for None, whose artifact's name begins with one of `within`."""
    return [step for step in steps if stage in (None, step.stage) and step.artifact.startswith(within)]


def check_upstream(
    stage: str, steps: Sequence[Step], states: Mapping[str, ArtifactStatus], within: tuple[str, ...] = ("",)
) -> None:
    """Raise `WorkspaceError` unless every artifact that the chosen steps of `stage` read is done."""
    made = {step.artifact for step in chosen(steps, stage, within)}
    needed = {name for step in steps if step.artifact in made for name in step.upstream} - made
    for name in (step.artifact for step in steps):
        if name in needed and states[name].state != "done":
            status = states[name]
            force = " --force" if status.state == "stale" else ""
            raise WorkspaceError(
                f"{stage} needs {name}, which is {status.state} ({status.why}); first run "
                f"`capo {status.stage}{force}` with the same recipe and --run, or `capo run{force}` for all "
                "stages"
            )


def _step_status(step: Step, run: Run, states: Mapping[str, ArtifactStatus]) -> ArtifactStatus:
    artifact = run.artifact(step.artifact)

    def state(state: State, why: str = "", changes: Mapping[str, Any] | None = None) -> ArtifactStatus:
        return ArtifactStatus(step.artifact, step.stage, state, why, changes or {})

    begun = artifact.begun()
    if begun is None:
        waiting = [name for name in step.upstream if states[name].state != "done"]
        return state("missing", f"needs {', '.join(waiting)}" if waiting else "not started")
    known = [name for name in step.upstream if states[name].state == "done"]
    compared = {name: v for name, v in begun.items() if name.removeprefix("@") in known or name[0] != "@"}
    changes = differences(compared, step.inputs | _digests(run, known))
    if changes and artifact.manifest() is None and not artifact.files():
        return state("missing", "not started")
    if changes:
        why = "; ".join(explain_change(name, *values) for name, values in changes.items())
        return state("stale", why, changes)
    if outdated := [name for name in step.upstream if states[name].state == "stale"]:
        return state("stale", f"{', '.join(outdated)} changed")
    manifest = artifact.manifest()
    if manifest is None:
        return state("partial", "not finished")
    if lost := artifact.lost(manifest):
        return state("partial", f"{lost} is missing or of another length")
    return state("done", unidentified(step.inputs))


def _digests(run: Run, upstream: Sequence[str]) -> dict[str, str]:
    return {f"@{name}": run.artifact(name).digest for name in upstream}
