"""Computing upcoming items in the background: training batches, shards to score."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

Key = TypeVar("Key")
Made = TypeVar("Made")

AHEAD = 2
"""Items that are ready or being made, in addition to the one in use."""


@contextmanager
def prefetched(
    make: Callable[[Key], Made], keys: Iterable[Key], ahead: int = AHEAD
) -> Iterator[Iterator[Made]]:
    """Yield an iterator over `make(key)` for all `keys`, in order; a thread computes `ahead` items early.

    Keys are taken when their item is about to be computed. An error of `make` is raised where its result
    would be returned. Leaving the context cancels the items that were not started.
    """
    # One thread, so that `make` need not be thread-safe.
    with ThreadPoolExecutor(1, "prefetch") as pool:
        try:
            yield _in_order(pool, make, keys, ahead)
        finally:
            pool.shutdown(cancel_futures=True)


def _in_order(
    pool: ThreadPoolExecutor, make: Callable[[Key], Made], keys: Iterable[Key], ahead: int
) -> Iterator[Made]:
    upcoming = iter(keys)
    waiting: deque[Future[Made]] = deque(pool.submit(make, key) for key in islice(upcoming, ahead))
    while waiting:
        item = waiting.popleft().result()
        waiting.extend(pool.submit(make, key) for key in islice(upcoming, 1))
        yield item
