"""Making the batches of the next steps while the present one is trained on."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from capo.training.batches import Batch

AHEAD = 2
"""Batches that are ready or in the making besides the one in use."""


@contextmanager
def prefetched(make: Callable[[int], Batch], steps: Sequence[int]) -> Iterator[Iterator[Batch]]:
    """The batches of `steps`, in order, made by a thread of their own.

    What `make` raises is raised where its batch is taken. Leaving the context drops what is not yet
    begun.
    """
    # One thread: `make` need not be safe for several.
    with ThreadPoolExecutor(1, "batches") as pool:
        try:
            yield _in_order(pool, make, steps)
        finally:
            pool.shutdown(cancel_futures=True)


def _in_order(
    pool: ThreadPoolExecutor, make: Callable[[int], Batch], steps: Sequence[int]
) -> Iterator[Batch]:
    waiting: deque[Future[Batch]] = deque(pool.submit(make, step) for step in steps[:AHEAD])
    for place in range(len(steps)):
        batch = waiting.popleft().result()
        if place + AHEAD < len(steps):
            waiting.append(pool.submit(make, steps[place + AHEAD]))
        yield batch
