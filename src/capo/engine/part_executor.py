"""The executor of one of several independent commands: it makes every n-th shard, and leaves the others."""

import os
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from capo.engine.local_executor import LocalExecutor
from capo.engine.shard_work import Executor, OnDone, Work, ignore
from capo.recipe import EngineSection

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """Which shards a command makes: those whose number has the remainder `index` when divided by `count`."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Read `i/n`; raises `ValueError` unless 0 <= i < n."""
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise ValueError(
                f"--shard: {text!r} is not I/N with 0 <= I < N, such as 0/4 for the first of four"
            )
        return cls(int(index), int(count))


class ShardsLeft(Exception):
    """What a part made, and how many shards of the same work are left to other parts."""

    def __init__(self, made: int, left: int) -> None:
        super().__init__(f"{made} shards made, {left} left")
        self.made, self.left = made, left

    @classmethod
    def sum(cls, parts: "Iterable[ShardsLeft]") -> "ShardsLeft":
        """Return what several pieces of work come to."""
        counted = list(parts)
        return cls(sum(part.made for part in counted), sum(part.left for part in counted))


class PartExecutor:
    """Makes the shards of one part in this process."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._local = LocalExecutor(f"part-{part.index}-{socket.gethostname()}-{os.getpid()}")

    def run(self, work: Work, shards: Sequence[int], on_done: OnDone = ignore, *, held: Any = None) -> None:
        """Make the part's shards among `shards`; raises `ShardsLeft` unless `shards` is empty."""
        own = [shard for shard in shards if shard % self._part.count == self._part.index]
        self._local.run(work, own, on_done, held=held)
        if shards:
            raise ShardsLeft(len(own), len(shards) - len(own))

    def call_all(self, function: Callable[[Executor, Any], None], shares: int = 1) -> bool:
        """Do nothing: there are no other processes."""
        return True

    def in_main(self, make: Callable[[], T], *, held: Any = None) -> T:
        """Call `make`."""
        return make()

    def free_memory(self, engine: EngineSection) -> int:
        """Return the bytes that this process's device has free."""
        return self._local.free_memory(engine)
