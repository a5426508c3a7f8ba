import threading

import pytest

from capo.engine.prefetch import prefetched


def test_batches_come_in_order_and_are_made_ahead_by_another_thread():
    made, threads, third = [], set(), threading.Event()

    def make(step):
        made.append(step)
        threads.add(threading.current_thread())
        if step == 7:
            third.set()
        return step * 10

    with prefetched(make, range(5, 9)) as batches:
        assert next(batches) == 50
        assert third.wait(10)  # two more, made ahead
        assert [*batches] == [60, 70, 80]
    assert made == [5, 6, 7, 8]
    assert threading.current_thread() not in threads


def test_an_error_is_raised_when_its_batch_is_requested():
    def make(step):
        if step == 2:
            raise KeyError(step)
        return step

    with prefetched(make, range(1, 5)) as batches:
        assert next(batches) == 1
        with pytest.raises(KeyError):
            next(batches)


def test_leaving_early_stops_production():
    made = []
    with prefetched(lambda step: made.append(step), range(1, 1000)) as batches:
        next(batches)
    assert len(made) <= 4
