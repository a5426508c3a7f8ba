"""Dealing shards to the processes of a launch; threads with a store in memory stand for the processes."""

import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

import pytest

from capo.engine.launch import Processes
from capo.engine.ranks_executor import RanksExecutor
from capo.engine.shard_work import Done, ShardsFailed


class MemoryStore:
    """What the executor uses of torch's TCPStore."""

    def __init__(self):
        self.values, self.changed = {}, threading.Condition()

    def clone(self):
        return self

    def set(self, key, value):
        with self.changed:
            self.values[key] = value
            self.changed.notify_all()

    def get(self, key):
        return self.values[key]

    def add(self, key, amount):
        with self.changed:
            self.values[key] = self.values.get(key, 0) + amount
            return self.values[key]

    def check(self, keys):
        return all(key in self.values for key in keys)

    def wait(self, keys, timeout):
        with self.changed:
            assert self.changed.wait_for(lambda: self.check(keys), 60)

    def delete_key(self, key):
        self.values.pop(key, None)


made = []
"""(writer, shard, held) of all threads, as they are made."""


@dataclass(frozen=True)
class Numbers:
    """Work that costs nothing, except for the writer `slow`; the writer `broken` cannot do it."""

    total: int
    slow: str = ""
    broken: str = ""
    title = unit = "numbers"

    def size(self, shard):
        return 1

    @contextmanager
    def open(self, place):
        yield Maker(self, place)


@dataclass(frozen=True)
class Maker:
    work: Numbers
    place: object

    def make(self, shards):
        for shard in shards:
            if self.place.writer == self.work.broken:
                raise KeyError("bad luck")
            time.sleep(0.1 if self.place.writer == self.work.slow else 0.002)
            made.append((self.place.writer, shard, self.place.held))
            self.place.advance()
            yield Done(shard, 0.0, {"square": shard**2})


def launch(monkeypatch, body, held=(None, None, None)):
    """Call `body` with the executor of the first of three processes; return the results of all."""
    monkeypatch.setattr("capo.engine.ranks_executor.POLL", 0.01)
    made.clear()
    store = MemoryStore()
    executors = []
    for rank in range(3):  # each of them counts its own executors
        monkeypatch.setattr("capo.engine.ranks_executor._executors", count())
        executors.append(RanksExecutor(store, Processes(rank, 3)))
    results = {}

    def process(rank):
        executor = executors[rank]
        results[rank] = executor.in_main(lambda: body(executor), held=held[rank])

    threads = [threading.Thread(target=process, args=(rank,), daemon=True) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [results.get(rank) for rank in range(3)]


def test_every_shard_is_made_once_and_no_process_waits_for_a_slow_one(monkeypatch):
    def body(executor):
        notes = {}
        executor.run(
            Numbers(60, slow="rank-1"), range(60), lambda done: notes.update({done.shard: done.note})
        )
        return notes

    results = launch(monkeypatch, body)
    assert sorted(shard for _, shard, _ in made) == list(range(60))
    assert results == [{shard: {"square": shard**2} for shard in range(60)}] * 3
    by_writer = Counter(writer for writer, _, _ in made)
    assert by_writer["rank-1"] < 10 < by_writer["rank-2"]
    assert set(by_writer) == {"main", "rank-1", "rank-2"}


def take_part_with_something_else(executor, held):
    assert executor.in_main(None, held=f"{held}'s policy") == "inner"


def test_a_process_takes_part_with_what_it_holds(monkeypatch):
    def body(executor):
        executor.call_all(take_part_with_something_else)

        def inner():
            executor.run(Numbers(30), range(30), held="zero's policy")
            return "inner"

        assert executor.in_main(inner) == "inner"
        return "outer"

    assert launch(monkeypatch, body, held=("zero", "one", "two")) == ["outer"] * 3
    assert {(writer, held) for writer, _, held in made} == {
        ("main", "zero's policy"),
        ("rank-1", "one's policy"),
        ("rank-2", "two's policy"),
    }


def test_an_error_names_the_process_and_its_shard_and_what_is_begun_is_finished(monkeypatch):
    def body(executor):
        done = []
        with pytest.raises(ShardsFailed, match=r"process 1 on .*bad luck") as raised:
            executor.run(
                Numbers(500, slow="main", broken="rank-1"), range(500), lambda d: done.append(d.shard)
            )
        executor.run(Numbers(3), range(3))
        return raised.value.failures, done

    failures, done = launch(monkeypatch, body)[0]
    (failure,) = failures
    assert len(failure.shards) == 1
    assert isinstance(failure.error, KeyError)
    assert len(done) < 400
    assert sorted(done) == sorted(shard for _, shard, _ in made[: len(done)])


def test_an_error_in_the_main_process_stops_the_dealing(monkeypatch):
    """An error about a finished shard, such as too many missing scores."""

    def body(executor):
        def reject(done):
            raise ValueError("too many gaps")

        with pytest.raises(ValueError, match="too many gaps"):
            executor.run(Numbers(500), range(500), reject)
        return len(made)

    assert launch(monkeypatch, body)[0] < 400


def test_the_units_of_all_processes_count(monkeypatch):
    bars = []

    class Bar:
        def advance(self, n, resumed=False):
            bars.append((n, resumed))

    @contextmanager
    def shown(work, missing):
        bar = Bar()
        bar.advance(work.total - len(missing), resumed=True)
        yield bar

    monkeypatch.setattr("capo.engine.ranks_executor.progress_of", shown)
    launch(monkeypatch, lambda executor: executor.run(Numbers(50), range(40)))
    assert bars[0] == (10, True)
    assert sum(n for n, _ in bars) == 50
