"""Measure what the engine adds to the making of a shard, with shards that cost nothing.

    python benchmarks/engine_overhead.py [--ray] [SHARDS...]

For every number of SHARDS (625 and 6,250 by default, the latter as in the paper's job), begins an artifact in
a temporary run directory, has an executor make the shards, each one file of 1 kB that is written and
recorded as samples are, commits, and prints the milliseconds per shard of both. The executor is the local
one, or with --ray that of two workers on a Ray cluster of this machine, whose start is not counted.
"""

import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

from capo.engine.executors import open_executor
from capo.engine.local_executor import LocalExecutor
from capo.engine.shard_work import Done, Executor, Workplace
from capo.recipe import EngineSection
from capo.store import Artifact, Run
from capo.store.run_directory import RunAccess

CONTENT = bytes(1000)


@dataclass(frozen=True)
class Nothing:
    """Work whose shards are small constant files."""

    access: RunAccess
    total: int
    title = "nothing"
    unit = "shards"
    resources: ClassVar[Mapping[str, float]] = {}

    def size(self, shard: int) -> int:
        """Return 1."""
        return 1

    @contextmanager
    def open(self, place: Workplace) -> "Iterator[Maker]":
        """Open the artifact for writing."""
        yield Maker(self.access.open(place.writer).artifact("samples"), place)


@dataclass(frozen=True)
class Maker:
    """Writes the files."""

    artifact: Artifact
    place: Workplace

    def make(self, shards: Iterable[int]) -> Iterator[Done]:
        """Write one file per shard."""
        for shard in shards:
            started = time.monotonic()
            self.artifact.write_bytes(f"shard-{shard:05d}", CONTENT)
            self.place.advance()
            yield Done(shard, time.monotonic() - started)


def measure(executor: Executor, shards: int) -> tuple[float, float]:
    """Return the milliseconds per shard of making the shards, and of the commit."""
    with tempfile.TemporaryDirectory() as folder, Run.open(Path(folder, "run")) as run:
        artifact = run.artifact("samples")
        artifact.begin({})
        times = [time.perf_counter()]
        executor.run(Nothing(run.access(), shards), range(shards))
        times.append(time.perf_counter())
        artifact.commit()
        times.append(time.perf_counter())
    making, committing = (1000 * (end - start) / shards for start, end in pairwise(times))
    return making, committing


@contextmanager
def executor_on(ray: bool) -> Iterator[Executor]:
    """Return the executor to measure."""
    if not ray:
        yield LocalExecutor()
        return
    with tempfile.TemporaryDirectory() as folder:
        engine = EngineSection(executor="ray", address="local", workers=2, device="cpu")
        with open_executor(engine, Path(folder)) as executor:
            measure(executor, 2)  # starts the cluster and the workers
            yield executor


def main(arguments: list[str]) -> None:
    """Print the table."""
    numbers = [int(text) for text in arguments if text != "--ray"] or [625, 6250]
    print("| shards | making, ms per shard | commit, ms per shard |\n|--:|--:|--:|")
    with executor_on("--ray" in arguments) as executor:
        for number in numbers:
            print("| {:,} | {:.2f} | {:.2f} |".format(number, *measure(executor, number)))


if __name__ == "__main__":
    import engine_overhead  # by its name, workers can import what they unpickle

    engine_overhead.main(sys.argv[1:])
