"""What a stage declares: its artifacts, what each of them is made from, and the function that makes them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from capo.recipe import Recipe
from capo.store.artifact import Artifact
from capo.store.run_directory import Run

StageName = Literal["prompts", "generate", "score", "pair", "train", "evaluate", "report"]


@dataclass(frozen=True)
class Job:
    """The work a stage is given: begun artifacts of one run, which it fills and commits."""

    recipe: Recipe
    run: Run
    artifacts: tuple[Artifact, ...]
    seconds: dict[str, float] = field(default_factory=dict)
    """Time spent per artifact, set by a stage that makes several at once; by default they share it evenly."""

    @property
    def artifact(self) -> Artifact:
        """The artifact of a job that makes exactly one."""
        (artifact,) = self.artifacts
        return artifact


@dataclass(frozen=True)
class Step:
    """One artifact of a run and how it comes about.

    `inputs` and the digests of the `upstream` artifacts are its fingerprint: the artifact is stale as soon
    as one of them changes. Steps with the same `make` follow one another and are made by one call.
    """

    artifact: str
    stage: StageName
    """The command that makes it."""
    inputs: dict[str, Any]
    """Recipe fields by dotted name, and the identities of weights and sources."""
    upstream: tuple[str, ...]
    make: Callable[[Job], None]
    needed_by: str | None = None
    """The only artifact that reads this one. Once that is up to date, this one may be missing."""


def flatten(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested sections as dotted keys: `{"train": {"beta": 1}}` becomes `{"train.beta": 1}`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}.{name}"
        flat |= flatten(key, value) if isinstance(value, dict) else {key: value}
    return flat
