"""What a command that makes artifacts of a run starts from: its steps, and their states."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from capo.pipeline import preflight
from capo.pipeline.states import ArtifactStatus, check_upstream, chosen, statuses
from capo.recipe import Recipe
from capo.store import Run
from capo.store.step import Step


@dataclass(frozen=True)
class Outlook:
    """The steps of a run, before a command opens it for writing."""

    run: Run
    states: Mapping[str, ArtifactStatus]
    """By artifact, without those that no step needs anymore."""
    unfinished: Sequence[Step]
    """All steps that are not done."""
    wanted: Sequence[Step]
    """The steps of the command's stage, or all."""

    @classmethod
    def of(
        cls, recipe: Recipe, directory: Path, stage: str | None, within: tuple[str, ...] = ("",)
    ) -> "Outlook":
        """Look at a run directory, which may be new; artifacts of `stage` begin with one of `within`.

        Raises `WorkspaceError` if it belongs to something else or lacks what `stage` needs, and
        `PreflightError` if an input of a step cannot be identified.
        """
        run = Run(directory)
        run.check_claimable()
        steps = preflight.steps_or_problems(recipe, directory, stage)
        states = statuses(steps, run)
        if stage is not None:
            check_upstream(stage, steps, states, within)
        steps = [step for step in steps if step.artifact in states]
        unfinished = [step for step in steps if states[step.artifact].state != "done"]
        return cls(run, states, unfinished, chosen(steps, stage, within))

    @property
    def waiting(self) -> list[Step]:
        """The wanted steps that are not done."""
        return [step for step in self.wanted if self.states[step.artifact].state != "done"]

    @property
    def wanted_states(self) -> list[ArtifactStatus]:
        """The states of the wanted steps."""
        return [self.states[step.artifact] for step in self.wanted]
