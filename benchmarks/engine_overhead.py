"""Measure what the engine adds to the making of a shard, with shards that cost nothing.

    python benchmarks/engine_overhead.py [SHARDS...]

For every number of SHARDS (625 and 6,250 by default, the latter as in the paper's job), begins an artifact in
a temporary run directory, has the local executor make the shards, each one file of 1 kB that is written and
recorded as samples are, commits, and prints the milliseconds per shard of both.
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

from capo.engine.local_executor import LocalExecutor
from capo.engine.shard_work import Done, Workplace
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


def measure(shards: int) -> tuple[float, float]:
    """Return the milliseconds per shard of making the shards, and of the commit."""
    with tempfile.TemporaryDirectory() as folder, Run.open(Path(folder, "run")) as run:
        artifact = run.artifact("samples")
        artifact.begin({})
        times = [time.perf_counter()]
        LocalExecutor().run(Nothing(run.access(), shards), range(shards))
        times.append(time.perf_counter())
        artifact.commit()
        times.append(time.perf_counter())
    making, committing = (1000 * (end - start) / shards for start, end in pairwise(times))
    return making, committing


if __name__ == "__main__":
    print("| shards | making, ms per shard | commit, ms per shard |\n|--:|--:|--:|")
    for number in [int(text) for text in sys.argv[1:]] or [625, 6250]:
        print("| {:,} | {:.2f} | {:.2f} |".format(number, *measure(number)))
