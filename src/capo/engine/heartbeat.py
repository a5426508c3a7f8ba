"""Detect processes of a launch that were stopped or lost, so that the others do not wait for them forever.

A long wait alone is no sign of a fault: the main process may validate for hours while the others wait.
Instead, every process regularly increases a number in the launch's store. A process whose number stops
increasing was stopped, or its machine failed.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

INTERVAL = 10.0
"""Seconds between two heartbeats."""
LIMIT = 300.0
"""Seconds without a heartbeat after which a process counts as stopped."""


@contextmanager
def heartbeats(store: Any, rank: int, size: int) -> Iterator[None]:
    """Send heartbeats, and end this process with an error once another of the `size` processes sends none.

    `store` is the launch's store, of torch.distributed. The error ends the process from a thread, since the
    main thread may wait inside a library. That is as safe as a kill: the same command resumes.
    """
    pulse = Pulse(store, rank, size)
    threads = [threading.Thread(target=run, daemon=True) for run in (pulse.exchange, pulse.watch)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        pulse.stopped.set()
        for thread in threads:  # Python must not end while one of them is inside the store's library
            thread.join(INTERVAL)


class Pulse:
    """The heartbeats of this process, and the last ones that it has seen of the others."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        # A store's client does one thing at a time, and the main thread may wait for a key.
        self._store = store.clone()
        self._rank, self._size = rank, size
        self.stopped = threading.Event()
        self._last_seen = dict.fromkeys(range(size), time.monotonic())
        self._hosts: dict[int, str] = {}

    def exchange(self) -> None:
        """Send this process's heartbeats and read those of the others, until stopped."""
        counts: dict[int, str] = {}
        beat = 0
        while not self.stopped.is_set():
            beat += 1
            try:
                self._store.set(_key(self._rank), f"{beat} {socket.gethostname()}")
                present = [rank for rank in range(self._size) if self._store.check([_key(rank)])]
                values = {rank: self._store.get(_key(rank)).decode() for rank in present}
            except RuntimeError:  # the store is gone; `watch` reports what that means
                return
            for rank, value in values.items():
                if counts.get(rank) != value:
                    counts[rank] = value
                    self._hosts[rank] = value.partition(" ")[2]
                    self._last_seen[rank] = time.monotonic()
            self.stopped.wait(INTERVAL)

    def watch(self) -> None:
        """End this process once another one has sent no heartbeat for `LIMIT` seconds."""
        checked = time.monotonic()
        while not self.stopped.wait(INTERVAL):
            now = time.monotonic()
            if now - checked > 3 * INTERVAL:
                # This process was stopped itself, maybe with all others: start over.
                self._last_seen = dict.fromkeys(range(self._size), now)
            checked = now
            if silent := [rank for rank, seen in self._last_seen.items() if now - seen > LIMIT]:
                self._end(silent)

    def _end(self, silent: list[int]) -> None:
        if self._rank in silent:
            problem = "the launcher's store does not answer: its process or machine was stopped"
        else:
            names = ", ".join(f"{rank} on {self._hosts.get(rank, 'an unknown host')}" for rank in silent)
            problem = f"no heartbeat from process {names}: it was stopped, or its machine failed"
        print(
            f"Error: {problem} ({LIMIT:.0f} s). Process {self._rank} ends; rerun the same command to resume",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)


def _key(rank: int) -> str:
    return f"heartbeat/{rank}"
