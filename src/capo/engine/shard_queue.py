"""Which shard a worker gets next, and what becomes of shards that fail."""

from collections import Counter, deque
from collections.abc import Sequence

from capo.engine.shard_work import Failure

TRIES = 3
"""A shard is set aside after failing this many times as the only shard of its worker."""


class ShardQueue:
    """The shards of a work that are not made yet.

    Workers overlap shards, so the one that is at fault for an error or for the death of a worker is not known
    at first. All shards that the worker had are then tried again alone, one at a time.
    """

    def __init__(self, shards: Sequence[int]) -> None:
        self._waiting = deque(shards)
        self._suspects: deque[int] = deque()
        self._tries: Counter[int] = Counter()
        self._left = set(shards)
        self.failures: list[Failure] = []
        """The shards that were set aside, with their last errors."""

    @property
    def finished(self) -> bool:
        """True once every shard is made or set aside."""
        return not self._left

    def next(self, busy: Sequence[int]) -> int | None:
        """Return the next shard for a worker that has the shards `busy`; None if it must wait."""
        if any(self._tries[shard] for shard in busy):
            return None
        if self._suspects and not busy:
            return self._suspects.popleft()
        return self._waiting.popleft() if self._waiting else None

    def made(self, shard: int) -> None:
        """Record that a shard is made."""
        self._left.discard(shard)

    def failed(self, shards: Sequence[int], where: str, error: BaseException) -> None:
        """Record that a worker failed while it had `shards`, all that it had."""
        for shard in shards:
            alone = len(shards) == 1
            # One more than the failures for which no other shard can be blamed.
            self._tries[shard] = max(self._tries[shard], 1) + alone
            if self._tries[shard] > TRIES:
                self._left.discard(shard)
                self.failures.append(Failure((shard,), where, error))
            else:
                self._suspects.append(shard)
