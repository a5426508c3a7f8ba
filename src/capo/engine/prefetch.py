"""Making what comes next while the present one is in use: batches of training, shards to score."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Key = TypeVar("Key")
Made = TypeVar("Made")

AHEAD = 2
"""Batches that are ready or in the making besides the one in use."""


@contextmanager
def prefetched(
    make: Callable[[Key], Made], keys: Sequence[Key], ahead: int = AHEAD
) -> Iterator[Iterator[Made]]:
    """What `make` makes of `keys`, in order, by a thread of its own that is at most `ahead` ahead.

    What `make` raises is raised where its result is taken. Leaving the context drops what is not yet
    begun.
    """
    # One thread: `make` need not be safe for several.
    with ThreadPoolExecutor(1, "prefetch") as pool:
        try:
            yield _in_order(pool, make, keys, ahead)
        finally:
            pool.shutdown(cancel_futures=True)


def _in_order(
    pool: ThreadPoolExecutor, make: Callable[[Key], Made], keys: Sequence[Key], ahead: int
) -> Iterator[Made]:
    waiting: deque[Future[Made]] = deque(pool.submit(make, key) for key in keys[:ahead])
    for place in range(len(keys)):
        made = waiting.popleft().result()
        if place + ahead < len(keys):
            waiting.append(pool.submit(make, keys[place + ahead]))
        yield made
