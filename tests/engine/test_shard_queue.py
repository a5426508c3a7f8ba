"""Which shards workers get, and what becomes of those that fail."""

from capo.engine.shard_queue import TRIES, ShardQueue

ERROR = ValueError("bad shard")


def make_all(shards, poison, ahead=2, workers=3):
    """Let workers make shards until the queue is finished; a worker fails when it reaches a poison shard."""
    queue = ShardQueue(shards)
    busy = [[] for _ in range(workers)]
    made = []
    for step in range(10_000):
        if queue.finished:
            return queue, made
        mine = busy[step % workers]
        while len(mine) < ahead and (shard := queue.next(mine)) is not None:
            mine.append(shard)
        if poison & set(mine):
            queue.failed(tuple(mine), f"worker {step % workers}", ERROR)
            mine.clear()
        elif mine:
            made.append(mine.pop(0))
            queue.made(made[-1])
    raise AssertionError("the queue never ends")


def test_without_errors_every_shard_is_made_once():
    queue, made = make_all(range(20), set())
    assert sorted(made) == list(range(20))
    assert not queue.failures


def test_a_poison_shard_is_set_aside_and_its_neighbors_are_made():
    queue, made = make_all(range(20), {0, 7, 8, 19})
    assert sorted(made) == sorted(set(range(20)) - {0, 7, 8, 19})
    assert {failure.shards for failure in queue.failures} == {(0,), (7,), (8,), (19,)}
    assert all(failure.error is ERROR for failure in queue.failures)


def test_an_error_that_goes_away_is_forgiven():
    queue = ShardQueue([3])
    for _ in range(TRIES - 1):
        assert queue.next([]) == 3
        queue.failed((3,), "worker", ERROR)
    assert queue.next([]) == 3
    queue.made(3)
    assert queue.finished
    assert not queue.failures


def test_a_suspect_is_alone_on_its_worker():
    queue = ShardQueue([0, 1, 2])
    assert [queue.next([]), queue.next([0])] == [0, 1]
    queue.failed((0, 1), "worker", ERROR)
    assert queue.next([]) == 0
    assert queue.next([0]) is None
