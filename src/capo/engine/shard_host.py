"""The process of a worker that another process gives shards to, one by one."""

import os
import pickle
import queue
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, cast

from capo.engine.memory import free_memory
from capo.engine.portable_errors import portable
from capo.engine.shard_work import Done, Work, Worker, Workplace
from capo.recipe import EngineSection


class Failed(NamedTuple):
    """What became of shards that the worker overlapped when it raised; it is returned for each of them."""

    shards: tuple[int, ...]
    error: BaseException


class _Order(NamedTuple):
    shard: int
    outcome: "Future[Done | Failed]"


class ShardHost:
    """Makes shards of one work after another in this process.

    Shards may be requested while others are in the making: the worker then overlaps them as it does in a
    single process. All calls into the work come from one thread.
    """

    def __init__(self, name: str, log: Path, folder: str, python_path: Sequence[str]) -> None:
        """`name` is the writer's name; what this process prints goes to the file `log`.

        It works in `folder` and finds the modules of `python_path`, as the main process does.
        """
        self.name = name
        redirect_output(log)
        os.chdir(folder)
        sys.path += [path for path in python_path if path not in sys.path]
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def is_alive(self) -> bool:
        """Return True, also while shards are in the making."""
        return True

    def free_memory(self, engine: EngineSection) -> int:
        """Return the bytes that this process's device has free."""
        return free_memory(engine)

    def open(self, work: bytes) -> str | Failed:
        """Set up a worker for a pickled work in place of the previous one; returns where it runs."""
        self.close()
        opened: Future[str | Failed] = Future()
        self._thread = threading.Thread(target=self._serve, args=(work, opened), daemon=True)
        self._thread.start()
        return opened.result()

    def make(self, shard: int) -> Done | Failed:
        """Make a shard; returns when its files are written.

        Errors are returned rather than raised, which keeps their types.
        """
        order = _Order(shard, Future())
        self._orders.put(order)
        return order.outcome.result()

    def close(self) -> None:
        """Release what the worker holds, once no shard is in the making."""
        if self._thread is not None:
            self._orders.put(None)
            self._thread.join()
            self._thread = None

    def _serve(self, pickled: bytes, opened: "Future[str | Failed]") -> None:
        try:
            work: Work = pickle.loads(pickled)
            with work.open(Workplace(self.name)) as worker:
                opened.set_result(f"{self.name} (process {os.getpid()} on {socket.gethostname()})")
                while (order := self._orders.get()) is not None:
                    self._make(worker, order)
        except BaseException as error:
            traceback.print_exception(error)
            if not opened.done():
                opened.set_result(Failed((), portable(error)))

    def _make(self, worker: Worker, first: _Order) -> None:
        """Make a shard, and those that are requested in time to overlap with their predecessor."""
        taken: deque[_Order] = deque()
        try:
            with closing(cast(Any, worker.make(self._deal(first, taken)))) as made:
                for done in made:
                    taken.popleft().outcome.set_result(done)
            if taken:
                raise RuntimeError(f"{type(worker).__name__} ended without making all shards")
        except BaseException as error:
            traceback.print_exception(error)
            failed = Failed(tuple(order.shard for order in taken), portable(error))
            for order in taken:
                order.outcome.set_result(failed)

    def _deal(self, first: _Order, taken: "deque[_Order]") -> Iterator[int]:
        order: _Order | None = first
        while order is not None:
            taken.append(order)
            yield order.shard
            try:
                order = self._orders.get_nowait()
            except queue.Empty:
                return
        self._orders.put(None)  # the end is for `_serve`


def redirect_output(log: Path) -> None:
    """Append what this process prints to the file `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    # Ray replaces these with streams of its own.
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
