"""The executor of a single process: it makes all shards itself, in order."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, TypeVar, cast

from capo.engine.progress import Bar, progress
from capo.engine.shard_work import MAIN, Executor, OnDone, Work, Workplace, ignore
from capo.recipe import EngineSection

T = TypeVar("T")


class LocalExecutor:
    """Makes shards one after another in this process. An error ends the run, and is raised as it is."""

    def __init__(self, writer: str = MAIN) -> None:
        """`writer` is `Workplace.writer`."""
        self._writer = writer

    def run(self, work: Work, shards: Sequence[int], on_done: OnDone = ignore, *, held: Any = None) -> None:
        """Make all `shards`."""
        with progress_of(work, shards) as bar:
            if not shards:
                return
            place = Workplace(self._writer, bar.advance, held)
            # What `make` returns is a generator: closing it ends the threads of the worker.
            with work.open(place) as worker, closing(cast(Any, worker.make(iter(shards)))) as made:
                for done in made:
                    on_done(done)

    def call_all(self, function: Callable[[Executor, Any], None], shares: int = 1) -> bool:
        """Do nothing: there are no other processes."""
        return True

    def in_main(self, make: Callable[[], T], *, held: Any = None) -> T:
        """Call `make`."""
        return make()

    def free_memory(self, engine: EngineSection) -> int:
        """Return the bytes that this process's device has free."""
        from capo.engine.memory import free_memory

        return free_memory(engine)


@contextmanager
def progress_of(work: Work, missing: Sequence[int]) -> Iterator[Bar]:
    """Show the progress of `work`, whose other shards exist."""
    with progress(work.title, work.total, work.unit) as bar:
        bar.advance(work.total - sum(map(work.size, missing)), resumed=True)
        yield bar
