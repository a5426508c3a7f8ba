"""Work without a model, for the tests of executors: a shard is a file with the square of its number."""

import os
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from capo.engine.shard_work import Done


@dataclass(frozen=True)
class Squares:
    """Writes `FOLDER/SHARD`; fails at `poison`, and kills its process at `deadly` the first time.

    At `hanging` it stops its process, which writes its id into `FOLDER/stopped` before.

    Workers wait for each other until there are `workers` of them.
    """

    folder: Path
    total: int
    poison: frozenset[int] = frozenset()
    deadly: frozenset[int] = frozenset()
    hanging: frozenset[int] = frozenset()
    seconds: float = 0.0
    workers: int = 1

    title, unit = "square", "numbers"
    resources = {}  # noqa: RUF012

    def size(self, shard):
        return 1

    @contextmanager
    def open(self, place):
        (self.folder / f"worker-{place.writer}").touch()
        while len(list(self.folder.glob("worker-*"))) < self.workers:
            time.sleep(0.01)
        yield Squarer(self, place)


class Squarer:
    """The worker; it writes a shard after it has taken the next one, as samplers do."""

    def __init__(self, work, place):
        self.work, self.place = work, place

    def make(self, shards):
        postponed = None
        for shard in shards:
            self._compute(shard)
            if postponed is not None:
                yield self._write(postponed)
            postponed = shard
        if postponed is not None:
            yield self._write(postponed)

    def _compute(self, shard):
        time.sleep(self.work.seconds)
        if shard in self.work.poison:
            raise ValueError(f"{shard} cannot be squared")
        stopped = self.work.folder / "stopped"
        if shard in self.work.hanging and not stopped.exists():
            stopped.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)
        scar = self.work.folder / f"killed-{shard}"
        if shard in self.work.deadly and not scar.exists():
            scar.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def _write(self, shard):
        with (self.work.folder / str(shard)).open("a") as file:
            file.write(f"{shard**2} {self.place.writer}\n")
        return Done(shard, self.work.seconds, {"square": shard**2})
