"""Measuring images shard by shard, wherever the executor places the shards.

Judges and encoders measure alike: every shard of images gives a small table, and once all are there they are
read in order and removed.

FOLDER/IMAGES/shard-00000.parquet   the table of one shard of images
"""

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from capo.engine.memory import release_memory
from capo.engine.prefetch import prefetched
from capo.engine.shard_work import Done, Executor, Workplace
from capo.scoring.decoded_images import DecodedImages
from capo.scoring.rater import image_files
from capo.scoring.score_shards import ImageShard
from capo.store import Artifact, Run
from capo.store.run_directory import RunAccess

if TYPE_CHECKING:
    import pyarrow as pa

Measure = Callable[["pa.Table", DecodedImages], "pa.Table"]
"""Maps the rows of a shard, with columns prompt_id and sample, and its images to a table."""


@dataclass(frozen=True)
class Measuring:
    """The work of measuring shards of images; a shard is a place in `images`. Picklable."""

    title: str
    access: RunAccess
    images: Sequence[tuple[str, str]]
    """Artifact and path of every shard."""
    artifact: str
    """The artifact that the tables are written to."""
    folder: str
    """The folder in it, which repeats the paths of the images."""
    load: Callable[[Workplace], Measure]
    """Loads what measures, in the worker's process. Picklable."""

    unit = "shards"
    resources: ClassVar[Mapping[str, float]] = {}

    @property
    def total(self) -> int:
        """The number of shards."""
        return len(self.images)

    def size(self, shard: int) -> int:
        """Return 1."""
        return 1

    def table_path(self, shard: int) -> str:
        """Return the path of a shard's table."""
        return f"{self.folder}/{self.images[shard][1]}"

    @contextmanager
    def open(self, place: Workplace) -> "Iterator[ShardMeasurer]":
        """Load what measures."""
        yield ShardMeasurer(self, self.access.open(place.writer), place)
        gc.collect()
        release_memory()


class ShardMeasurer:
    """Measures one shard after another; the images of the next one are decoded meanwhile."""

    def __init__(self, work: Measuring, run: Run, place: Workplace) -> None:
        self._work, self._run, self._advance = work, run, place.advance
        self._measure = work.load(place)

    def make(self, shards: Iterable[int]) -> Iterator[Done]:
        """Measure shards."""
        tables = self._run.artifact(self._work.artifact)
        with prefetched(self._read, shards, ahead=1) as ready:
            for shard, started, rows, images in ready:
                tables.write_table(self._work.table_path(shard), self._measure(rows, images))
                self._advance(1)
                yield Done(shard, time.monotonic() - started)

    def _read(self, shard: int) -> "tuple[int, float, pa.Table, DecodedImages]":
        started, (artifact, path) = time.monotonic(), self._work.images[shard]
        rows = self._run.artifact(artifact).read_table(path, ["prompt_id", "sample", "image"])
        return shard, started, rows, DecodedImages(image_files(rows))


def measure_shards(
    executor: Executor,
    shards: Sequence[ImageShard],
    load: Callable[[Workplace], Measure],
    tables: tuple[Artifact, str],
    title: str,
) -> "list[pa.Table]":
    """Measure all shards, resuming with the first that has no table; return their tables, in order.

    They are kept in a folder of an artifact, both named by `tables`, until the caller removes them.
    """
    artifact, folder = tables
    images = [(shard.artifact.name, shard.path) for shard in shards]
    work = Measuring(title, artifact.run.access(), images, artifact.name, folder, load)
    paths = [work.table_path(shard) for shard in range(len(shards))]
    executor.run(work, [shard for shard, path in enumerate(paths) if not artifact.has(path)])
    artifact.wait_until_visible(paths)
    return [artifact.read_table(path) for path in paths]
