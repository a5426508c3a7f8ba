"""Steps: the artifacts that a stage declares, with their inputs and the function that makes them."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from capo.engine.local_executor import LocalExecutor
from capo.engine.part_executor import ShardsLeft
from capo.engine.shard_work import Executor
from capo.recipe import Recipe
from capo.store.artifact import Artifact
from capo.store.errors import LeftToMain
from capo.store.run_directory import Run

StageName = Literal["prompts", "generate", "score", "pair", "train", "evaluate", "benchmark", "report"]


@dataclass(frozen=True)
class Job:
    """Work for a stage: begun artifacts of a run, for it to fill and commit."""

    recipe: Recipe
    run: Run
    artifacts: tuple[Artifact, ...]
    executor: Executor = field(default_factory=LocalExecutor)
    """Makes the shards of the artifacts."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds per artifact, set by a stage that makes several at once; by default they share the time."""

    @property
    def artifact(self) -> Artifact:
        """The only artifact of a job that makes one."""
        (artifact,) = self.artifacts
        return artifact


@dataclass(frozen=True)
class Step:
    """One artifact of a run and how it is made.

    `inputs` and the digests of the `upstream` artifacts are its fingerprint: the artifact is stale once one
    of them changes. Consecutive steps with the same `make` are made by one call.
    """

    artifact: str
    stage: StageName
    """The command that makes it."""
    inputs: dict[str, Any]
    """Recipe fields by dotted name, and the identities of weights and sources."""
    upstream: tuple[str, ...]
    make: Callable[[Job], None]
    sharded: bool = False
    """True if independent commands can make its shards; only one commits it."""
    kept_as: Callable[[str, Collection[str]], str | None] | None = None
    """Returns where a file is used again although the named inputs differ; None if it is not."""
    needed_by: str | None = None
    """The only artifact that reads this one, which may be missing once that artifact is up to date."""


def make_all(works: Iterable[Callable[[], None]]) -> None:
    """Do several pieces of a stage's work, all of them even if some are left to other commands.

    A later piece may need the shards with the same numbers of an earlier one. Raises `ShardsLeft` with the
    sum, or `LeftToMain` if no shard is left but the main process must complete a piece.
    """
    shards: list[ShardsLeft] = []
    main: LeftToMain | None = None
    for work in works:
        try:
            work()
        except ShardsLeft as error:
            shards.append(error)
        except LeftToMain as error:
            main = error
    if shards:
        raise ShardsLeft.sum(shards)
    if main is not None:
        raise main


def flatten(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested sections to dotted keys: `{"train": {"beta": 1}}` becomes `{"train.beta": 1}`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}.{name}" if prefix else name
        flat |= flatten(key, value) if isinstance(value, dict) else {key: value}
    return flat
