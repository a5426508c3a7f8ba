"""The executor of a launch: all processes make shards, dealt to whichever is free.

The main process walks through the run. The others wait for its orders in the launch's store: to take part in
some work, to call a function such as the training, or to return a result. A counter in the store deals the
shards, so no process waits for a slow one.

    order/E.N          the order number N of the executor number E
    order/E.N/next       how many shards are dealt
    order/E.N/stop       exists once no more shards are to be dealt
    order/E.N/units    finished units; order/E.N/resumed: those that cost no time
    order/E.N/reports  how many reports there are; order/E.N/report/R: report number R
"""

import gc
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar, cast

from capo.engine.device import select_device
from capo.engine.launch import Processes
from capo.engine.local_executor import progress_of
from capo.engine.memory import free_memory, release_memory
from capo.engine.portable_errors import portable
from capo.engine.progress import Bar
from capo.engine.ranks import TIMEOUT
from capo.engine.shard_work import (
    MAIN,
    Done,
    Executor,
    Failure,
    OnDone,
    ShardsFailed,
    Work,
    Workplace,
    ignore,
)
from capo.recipe import EngineSection

T = TypeVar("T")

_executors = count()

POLL = 0.2
"""Seconds between two looks at the reports of other processes."""


@dataclass(frozen=True)
class _Make:
    """The order to take part in work."""

    work: Work
    shards: Sequence[int]


@dataclass(frozen=True)
class _Call:
    """The order to call a function with this process's executor and what it holds."""

    function: Callable[[Executor, Any], None]


@dataclass(frozen=True)
class _Return:
    """The order to end, with the result of the main process."""

    result: Any


@dataclass(frozen=True)
class _Finished:
    """The report of a process that has no more part in the work."""


class RanksExecutor:
    """Makes shards in all processes of a launch, as seen from one of them."""

    def __init__(self, store: Any, process: Processes) -> None:
        """`store` is the launch's, and `process` its process that this one is."""
        self._store = store.clone()  # a client does one thing at a time
        self._rank, self._size = process.rank, process.size
        self._local_size = process.local_size
        executor = next(_executors)  # all processes open their executors in the same order
        self._keys = (f"order/{executor}.{number}" for number in count(1))

    def run(self, work: Work, shards: Sequence[int], on_done: OnDone = ignore, *, held: Any = None) -> None:
        """Make all `shards`, in the main process and all others.

        An error stops the dealing; shards that other processes have begun are finished. Raises the error of
        the main process, or `ShardsFailed` with those of the others.
        """
        with progress_of(work, shards) as bar:
            if not shards:
                return
            key = self._send(_Make(work, tuple(shards)))
            reports = _Reports(self._store, key, self._size - 1, on_done)
            with self._progress(key, bar):
                try:
                    for done in self._made(key, work, shards, held):
                        on_done(done)
                        reports.read()
                except Exception:
                    self._store.set(f"{key}/stop", "")
                    reports.on_done = ignore
                    reports.wait()
                    raise
                reports.wait()
            self._store.delete_key(key)
            if reports.failures:
                raise ShardsFailed(work, reports.failures)

    def call_all(self, function: Callable[[Executor, Any], None], shares: int = 1) -> bool:
        """Let every other process call a picklable `function`, with its executor and what it holds."""
        self._send(_Call(function))
        return True

    def in_main(self, make: Callable[[], T], *, held: Any = None) -> T:
        """Call `make` in the main process and return its result in all; the others take part in its work."""
        if self._rank:
            result: T = self._follow(held)
            return result
        result = make()
        self._send(_Return(result))
        return result

    def free_memory(self, engine: EngineSection) -> int:
        """Return the bytes that a process of this launch may use; all are taken to have the same device."""
        alone = select_device(engine).type == "cuda"
        return free_memory(engine) // (1 if alone else self._local_size)

    # The main process.

    def _send(self, order: Any) -> str:
        key = next(self._keys)
        self._store.set(key, pickle.dumps(order))
        return key

    @contextmanager
    def _progress(self, key: str, bar: Bar) -> Iterator[None]:
        """Show what all processes have finished, from another thread."""
        store, stopped = self._store.clone(), threading.Event()
        thread = threading.Thread(target=_count, args=(store, key, bar, stopped), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()

    # The other processes.

    def _follow(self, held: Any) -> Any:
        while True:
            key = next(self._keys)
            self._store.wait([key], TIMEOUT)
            order = pickle.loads(self._store.get(key))
            if isinstance(order, _Return):
                return order.result
            if isinstance(order, _Make):
                self._assist(key, order.work, order.shards, held)
            else:
                order.function(self, held)

    def _assist(self, key: str, work: Work, shards: Sequence[int], held: Any) -> None:
        taken: set[int] = set()
        try:
            for done in self._made(key, work, shards, held, taken):
                self._report(key, done)
        except Exception as error:
            where = f"process {self._rank} on {socket.gethostname()}"
            self._store.set(f"{key}/stop", "")
            self._report(key, Failure(tuple(sorted(taken)), where, portable(error)))
        gc.collect()  # what failed may hold models
        release_memory()
        self._report(key, _Finished())

    def _report(self, key: str, report: Any) -> None:
        number = self._store.add(f"{key}/reports", 1)
        self._store.set(f"{key}/report/{number}", pickle.dumps(report))

    # All processes.

    def _made(
        self, key: str, work: Work, shards: Sequence[int], held: Any, taken: set[int] | None = None
    ) -> Iterator[Done]:
        """Make the shards that are dealt to this process. `taken` has those that are not done."""
        taken = set() if taken is None else taken

        def dealt() -> Iterator[int]:
            while not self._store.check([f"{key}/stop"]):
                place = self._store.add(f"{key}/next", 1) - 1
                if place >= len(shards):
                    return
                taken.add(shards[place])
                yield shards[place]

        def advance(n: int = 1, *, resumed: bool = False) -> None:
            self._store.add(f"{key}/{'resumed' if resumed else 'units'}", n)

        place = Workplace(MAIN if self._rank == 0 else f"rank-{self._rank}", advance, held)
        with work.open(place) as worker, closing(cast(Any, worker.make(dealt()))) as made:
            for done in made:
                taken.discard(done.shard)
                yield done


class _Reports:
    """What the other processes report about one piece of work."""

    def __init__(self, store: Any, key: str, processes: int, on_done: OnDone) -> None:
        self.on_done = on_done
        self.failures: list[Failure] = []
        self._store, self._key = store, key
        self._working = processes
        self._read = 0

    def read(self) -> None:
        """Read the reports so far."""
        while self._read < self._store.add(f"{self._key}/reports", 0):
            self._read += 1
            place = f"{self._key}/report/{self._read}"
            self._store.wait([place], TIMEOUT)
            report = pickle.loads(self._store.get(place))
            self._store.delete_key(place)
            if isinstance(report, Done):
                self.on_done(report)
            elif isinstance(report, Failure):
                self.failures.append(report)
            else:
                self._working -= 1

    def wait(self) -> None:
        """Read reports until every process has finished."""
        while True:
            self.read()
            if not self._working:
                return
            time.sleep(POLL)


def _count(store: Any, key: str, bar: Bar, stopped: threading.Event) -> None:
    """Advance `bar` by the units that all processes have finished."""
    counted = {"units": 0, "resumed": 0}
    while True:
        last = stopped.wait(1.0)
        for name, before in counted.items():
            counted[name] = store.add(f"{key}/{name}", 0)
            if counted[name] > before:
                bar.advance(counted[name] - before, resumed=name == "resumed")
        if last:
            return
