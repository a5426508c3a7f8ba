"""Existing images in place of a model's, for an evaluation or a benchmark.

They are matched to prompts by their caption, or by the name of their folder: the prompt's id, or its number
among the prompts, counted from 0.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from capo.engine.prefetch import prefetched
from capo.engine.shard_work import Advance, Done, Executor, Workplace
from capo.images.entries import ImageSource, Place
from capo.images.sample_table import sample_table
from capo.images.shard_files import shard_path
from capo.images.sources import open_images
from capo.prompts import Prompt
from capo.recipe import ImagesSection
from capo.rewards.rgb_images import decode_image
from capo.store import Artifact
from capo.store.run_directory import RunAccess

if TYPE_CHECKING:
    import pyarrow as pa

Images = tuple[Prompt, tuple[Place, ...]]
"""A prompt and the places of its images."""


@dataclass(frozen=True)
class EvaluationImages:
    """The existing images that take the place of a model's. Picklable."""

    section: ImagesSection
    prompts: Sequence[Prompt]
    samples: int
    """K, images of each prompt."""
    field: str
    """The recipe field with this number, for errors."""
    shard_prompts: int
    check: Callable[[tuple[int, int], str], None]
    """Called with (height, width) of every image and a description; raises for sizes that do not fit."""
    purpose: str
    """Starts the progress line."""
    open_source: Callable[[ImagesSection], ImageSource] = open_images


def import_evaluation_images(
    executor: Executor, artifact: Artifact, folder: str, request: EvaluationImages
) -> None:
    """Write the first K images of each prompt into the missing shards of `folder`.

    Raises `ValueError` if a prompt has fewer images, and for an image that cannot be read or that
    `request.check` rejects.
    """
    work = _ImportingImages(request, artifact.run.access(), artifact.name, folder)
    shards = range(-(-len(request.prompts) // request.shard_prompts))
    executor.run(work, [shard for shard in shards if not artifact.has(shard_path(folder, shard))])
    artifact.wait_until_visible(shard_path(folder, shard) for shard in shards)


@dataclass(frozen=True)
class _ImportingImages:
    """The work of writing the images into the shards of a folder. Picklable."""

    request: EvaluationImages
    access: RunAccess
    artifact: str
    folder: str

    unit = "prompts"
    resources: ClassVar[Mapping[str, float]] = {}

    @property
    def title(self) -> str:
        return f"{self.request.purpose}: images of {self.request.section.source}"

    @property
    def total(self) -> int:
        return len(self.request.prompts)

    def size(self, shard: int) -> int:
        return len(self.request.prompts[self.part(shard)])

    def part(self, shard: int) -> slice:
        """Return the places of a shard's prompts among all prompts."""
        size = self.request.shard_prompts
        return slice(shard * size, (shard + 1) * size)

    @contextmanager
    def open(self, place: Workplace) -> "Iterator[_ImageImporter]":
        """Open the data set and match its images to the prompts."""
        artifact = self.access.open(place.writer).artifact(self.artifact)
        yield _ImageImporter(self, artifact, place.advance)


class _ImageImporter:
    """Imports one shard after another; the images of the next one are read meanwhile."""

    def __init__(self, work: _ImportingImages, artifact: Artifact, advance: Advance) -> None:
        self._work, self._artifact, self._advance = work, artifact, advance
        self._source = work.request.open_source(work.request.section)
        self._images = match_images(work.request, self._source)

    def make(self, shards: Iterable[int]) -> Iterator[Done]:
        """Import shards."""
        with prefetched(self._read, shards, ahead=1) as ready:
            for shard, started, table in ready:
                self._artifact.write_table(shard_path(self._work.folder, shard), table)
                self._advance(self._work.size(shard))
                yield Done(shard, time.monotonic() - started)

    def _read(self, shard: int) -> "tuple[int, float, pa.Table]":
        started = time.monotonic()
        images = self._images[self._work.part(shard)]
        return shard, started, _table(self._work.request, self._source, images)


def match_images(request: EvaluationImages, source: ImageSource) -> list[Images]:
    """Return the first K images of each prompt; raises `ValueError` if a prompt has fewer."""
    by_caption: dict[str, tuple[Place, ...]] = {}
    for entry in source.entries:
        caption = entry.prompt.text
        by_caption[caption] = by_caption.get(caption, ()) + entry.images
    numbers = {int(caption): images for caption, images in by_caption.items() if caption.isdecimal()}
    matched = []
    for number, prompt in enumerate(request.prompts):
        images = by_caption.get(prompt.text) or by_caption.get(prompt.prompt_id) or numbers.get(number, ())
        if len(images) < request.samples:
            raise ValueError(
                f"{request.section.source} has {len(images)} images of prompt {number}, {prompt.text!r} (id "
                f"{prompt.prompt_id}), but {request.field} is {request.samples}"
            )
        matched.append((prompt, images[: request.samples]))
    return matched


def _table(request: EvaluationImages, source: ImageSource, images: Sequence[Images]) -> "pa.Table":
    import pyarrow as pa

    rows = [
        (prompt.prompt_id, sample, source.name(place), source.read(place))
        for prompt, places in images
        for sample, place in enumerate(places)
    ]
    for *_, name, data in rows:
        try:
            image = decode_image(data)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        request.check((image.height, image.width), f"{name} is")
    ids, samples, names, files = zip(*rows, strict=True)
    columns = {
        "prompt_id": pa.array(ids, pa.string()),
        "sample": pa.array(samples, pa.int32()),
        "origin": pa.array(names, pa.string()),
    }
    return sample_table(columns, files)
