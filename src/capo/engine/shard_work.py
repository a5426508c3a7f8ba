"""Work that executors place: shards, which any process makes with the same bytes.

A shard is a numbered piece of an artifact. Its worker writes its files, the one that marks it as
complete last; nothing else is passed on but a small `Done`. So a shard can be made in this process, in
another one, or on another machine that shares the run directory.

    class Draw:                                       # a Work: picklable, and complete in itself
        title, unit, total, resources = "draw", "pictures", 640, {}
        def size(self, shard): return 64              # pictures in a shard
        @contextmanager
        def open(self, place):                        # in the worker's process: load what shards need
            yield Drawer(load_model(), place)

    class Drawer:                                     # a Worker
        def make(self, shards):
            for shard in shards:                      # the next number is dealt when this asks for it
                ...                                   # write the files; place.advance(64)
                yield Done(shard, seconds)

    executor.run(Draw(), missing, on_done)
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from capo.recipe import EngineSection

T = TypeVar("T")

MAIN = "main"
"""The writer name of the main process, which begins and commits artifacts."""


class Advance(Protocol):
    """Counts finished units for the progress line."""

    def __call__(self, n: int = 1, *, resumed: bool = False) -> None:
        """Count `n` units; `resumed` ones cost no time, so they do not count toward the speed."""


@dataclass(frozen=True)
class Workplace:
    """What a process offers to the work that it takes part in."""

    writer: str = MAIN
    """The name of this process among the writers of the run: letters, digits, `-`, `_` and `.`."""
    advance: Advance = lambda n=1, *, resumed=False: None
    """Called as units are finished. The units of a shard add up to its size when it is yielded."""
    held: Any = None
    """Something that this process holds and that cannot travel, such as the model in training."""


@dataclass(frozen=True)
class Done:
    """A shard of which all files are written."""

    shard: int
    seconds: float
    """From the time the worker took the shard."""
    note: Mapping[str, Any] = field(default_factory=dict)
    """What the main process needs to know about it: a few numbers and texts."""


class Worker(Protocol):
    """Makes shards in one process."""

    def make(self, shards: Iterable[int]) -> Iterator[Done]:
        """Yield every shard once all of its files are written, in the order of `shards`.

        A worker asks for the next shard when it is ready to start it, which may be before it has yielded
        the previous one: the executor must deal without waiting for that. Closing the iterator ends
        everything that the worker started.
        """
        ...


class Work(Protocol):
    """A kind of shards to make. Picklable, and complete in itself."""

    @property
    def title(self) -> str:
        """Starts the progress line."""
        ...

    @property
    def unit(self) -> str:
        """What the progress line counts, in the plural."""
        ...

    @property
    def resources(self) -> Mapping[str, float]:
        """What a worker takes of a Ray cluster, by Ray's names; one GPU, or else one CPU, if empty."""
        ...

    @property
    def total(self) -> int:
        """The units in all shards, including those that exist already."""
        ...

    def size(self, shard: int) -> int:
        """Return the units in a shard."""
        ...

    def open(self, place: Workplace) -> AbstractContextManager[Worker]:
        """Set up a worker in this process: load a model on its device, open the run to write shards.

        Leaving the context releases the memory.
        """
        ...


OnDone = Callable[[Done], None]


class Executor(Protocol):
    """Decides which process makes which shard."""

    def run(self, work: Work, shards: Sequence[int], on_done: OnDone = ..., *, held: Any = None) -> None:
        """Make all `shards`, and call `on_done` for each in the main process; return when all are written.

        `held` is `Workplace.held` in this process. An error of `on_done` ends the run. Raises the error of
        the work if it was made in this process, and otherwise `ShardsFailed`.
        """
        ...

    def call_all(self, function: "Callable[[Executor, Any], None]", shares: int = 1) -> bool:
        """Let all other processes of the launch call a picklable function.

        Its arguments are their executor and what they hold. Returns True if the main process must do the same
        meanwhile. Returns False if the executor has started processes that did it without the main process
        and have ended. Their number divides `shares`.
        """
        ...

    def in_main(self, make: Callable[[], T], *, held: Any = None) -> T:
        """Call `make` in the main process and return its result in all processes that call this.

        The others take part in the work that `make` gives to the executor, with what each of them has `held`.
        """
        ...

    def free_memory(self, engine: EngineSection) -> int:
        """Return the bytes that every worker's device has free."""
        ...


@dataclass(frozen=True)
class Failure:
    """An error of a worker in another process."""

    shards: tuple[int, ...]
    """What the worker had taken and not finished; empty if it could not be opened."""
    where: str
    """The process and its host."""
    error: BaseException
    """As it was raised there, or a `RuntimeError` with its text if it could not be sent."""


class ShardsFailed(RuntimeError):
    """Shards that no process could make, with the causes."""

    def __init__(self, work: Work, failures: Sequence[Failure]) -> None:
        self.failures = tuple(failures)
        lines = [f"{work.title}: {_listed(shard for f in failures for shard in f.shards)} failed"]
        lines += [f"  {failure.where}: {failure.error}" for failure in failures]
        super().__init__("\n".join(lines))


def errors_of(error: BaseException) -> Sequence[BaseException]:
    """Return the errors of the workers if `error` is a `ShardsFailed`, and else the error itself."""
    return [failure.error for failure in error.failures] if isinstance(error, ShardsFailed) else [error]


def ignore(done: Done) -> None:
    """Do nothing about a finished shard."""


def _listed(shards: Iterable[int], most: int = 8) -> str:
    numbers = sorted(set(shards))
    if not numbers:
        return "a worker"
    more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return f"shard {', '.join(map(str, numbers[:most]))}{more}"
