"""Existing images as the samples of a run, with the latents and conditioning that training needs.

    samples/shard-00000.parquet                    one row per image, ordered by prompt, then sample
    samples/shard-00000.latents.safetensors        one row per image
    samples/shard-00000.conditioning.safetensors   one row per prompt that has an image

The files are those of the generate stage, without seeds: an image is kept unchanged, its latent is the VAE's
encoding, and `label` is what people preferred. Prompts may differ in their number of images.
"""

import gc
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from capo.diffusion import load_family, load_weightless
from capo.engine.device import select_device
from capo.engine.memory import release_memory
from capo.engine.prefetch import prefetched
from capo.engine.progress import say
from capo.engine.shard_work import Advance, Done, Workplace
from capo.images.disk_space import DiskSpace, check_space, image_space
from capo.images.entries import Entry, ImageSource
from capo.images.sample_table import latent_tensors, sample_table
from capo.images.shard_files import conditioning_path, latents_path, shard_path
from capo.images.sources import open_images
from capo.images.unreadable import REASONS_SHOWN, UnreadableImages
from capo.prompts import Prompt
from capo.prompts.table import read_prompts
from capo.recipe import GenerateSection, Recipe
from capo.rewards.rgb_images import decode_image
from capo.store import Artifact, Run
from capo.store.run_directory import RunAccess
from capo.store.step import Job

if TYPE_CHECKING:
    from capo.diffusion.family import Family

ENCODED_TOGETHER = 16
"""Decoded images in memory."""

ENLARGED = "enlarged"
"""The column of images that are smaller than the model's in width or height, and their number."""


@dataclass(frozen=True)
class ImportedImage:
    """An image that can be decoded."""

    prompt: Prompt
    sample: int
    """Counts the prompt's readable images from 0."""
    origin: str
    data: bytes
    label: float | None


def import_samples(job: Job) -> None:
    """Fill `samples/` with the images of all prompts of the run, shard by shard.

    Unreadable images are skipped and counted. Raises `ImagesError` as soon as their share exceeds
    `pairs.max_skipped`.
    """
    recipe, artifact = job.recipe, job.artifact
    images = _Images(recipe, job.run)
    work = Importing(recipe, job.run.access(), artifact.name, images.counts)
    unreadable = UnreadableImages(work.total, recipe.pairs.max_skipped)
    missing = []
    for shard, count in enumerate(work.counts):
        if artifact.has(path := shard_path("", shard)):
            unreadable.add(count - len(artifact.read_columns(path, ["prompt_id"])))
        else:
            missing.append(shard)
    job.executor.run(work, missing, lambda done: unreadable.add(**done.note))
    artifact.wait_until_visible(shard_path("", shard) for shard in range(len(work.counts)))
    unreadable.report()
    samples = work.total - unreadable.count
    counts = {"prompts": len(images.entries), "samples": samples, "unreadable": unreadable.count}
    artifact.commit(counts | {ENLARGED: _enlarged(artifact, len(work.counts), recipe)})


@dataclass(frozen=True)
class Importing:
    """The work of importing the images of a run as samples. Picklable."""

    recipe: Recipe
    access: RunAccess
    artifact: str
    counts: Sequence[int]
    """The images of every shard, including those that cannot be read."""

    title = "import images"
    unit = "images"
    resources: ClassVar[Mapping[str, float]] = {}

    @property
    def total(self) -> int:
        """The number of images."""
        return sum(self.counts)

    def size(self, shard: int) -> int:
        """Return the number of images in a shard."""
        return self.counts[shard]

    @contextmanager
    def open(self, place: Workplace) -> "Iterator[ShardImporter]":
        """Open the data set and load the model. Raises `WorkspaceError` if the disk is too small."""
        run = self.access.open(place.writer)
        artifact, images = run.artifact(self.artifact), _Images(self.recipe, run)
        family = load_family(self.recipe.model, select_device(self.recipe.engine))
        shards = range(len(self.counts))
        left = [e for n in shards if not artifact.has(shard_path("", n)) for e in images.shard(n)]
        _report_space(family, self.recipe.generate, left, artifact.folder)
        yield ShardImporter(family, self, images, artifact, place.advance)
        del family
        gc.collect()
        release_memory()


class _Images:
    """The data set of a recipe, with the prompts of a run in their order."""

    def __init__(self, recipe: Recipe, run: Run) -> None:
        assert recipe.images is not None
        self.source: ImageSource = open_images(recipe.images)
        by_prompt = {entry.prompt.prompt_id: entry for entry in self.source.entries}
        self.entries = [by_prompt[prompt.prompt_id] for prompt in read_prompts(run)]
        self._size = recipe.generate.shard_prompts

    def shard(self, number: int) -> list[Entry]:
        return self.entries[number * self._size : (number + 1) * self._size]

    @cached_property
    def counts(self) -> list[int]:
        """The number of images in every shard."""
        return [_count(self.shard(n)) for n in range(math.ceil(len(self.entries) / self._size))]


class ShardImporter:
    """Imports one shard after another, with a model in this process; the next one is read meanwhile."""

    def __init__(
        self, family: "Family", work: Importing, images: _Images, artifact: Artifact, advance: Advance
    ) -> None:
        self._family, self._work, self._images = family, work, images
        self._artifact, self._advance = artifact, advance

    def make(self, shards: Iterable[int]) -> Iterator[Done]:
        """Import shards; the note of each has its number of unreadable images, and the first reasons."""
        with prefetched(self._read, shards, ahead=1) as ready:
            for shard, started, images, reasons in ready:
                self._write(shard, images)
                self._advance(self._work.size(shard))
                note = {"count": len(reasons), "reasons": reasons[:REASONS_SHOWN]}
                yield Done(shard, time.monotonic() - started, note)

    def _read(self, shard: int) -> tuple[int, float, list[ImportedImage], list[str]]:
        """Read a shard's images; raises `ImagesError` if it alone has too many that cannot be read."""
        started, source = time.monotonic(), self._images.source
        unreadable = UnreadableImages(self._work.total, self._work.recipe.pairs.max_skipped)
        images, reasons = [], []
        for entry in self._images.shard(shard):
            sample = 0
            for place, label in zip(entry.images, entry.labels or (None,) * len(entry.images), strict=True):
                try:
                    data = source.read(place)
                    decode_image(data)
                except (OSError, ValueError) as error:
                    reasons.append(f"{source.name(place)}: {error}")
                    unreadable.add(1, reasons[-1:])
                    continue
                images.append(ImportedImage(entry.prompt, sample, source.name(place), data, label))
                sample += 1
        return shard, started, images, reasons

    def _write(self, number: int, images: Sequence[ImportedImage]) -> None:
        import pyarrow as pa
        import torch

        family, settings = self._family, self._work.recipe.generate
        latents, sizes = [torch.empty(0, *family.latent_shape(settings))], []
        for start in range(0, len(images), ENCODED_TOGETHER):
            decoded = [decode_image(image.data) for image in images[start : start + ENCODED_TOGETHER]]
            latents.append(family.encode_images(decoded, settings))
            sizes += [image.size for image in decoded]
        least = family.image_size(settings)
        texts = {image.prompt.prompt_id: image.prompt.text for image in images}
        if texts:
            conditioning = family.encode([*texts.values()])
            self._artifact.write_tensors(conditioning_path("", number), conditioning)
        columns = {
            "prompt_id": pa.array([image.prompt.prompt_id for image in images], pa.string()),
            "sample": pa.array([image.sample for image in images], pa.int32()),
            "origin": pa.array([image.origin for image in images], pa.string()),
            "label": pa.array([image.label for image in images], pa.float64()),
            ENLARGED: pa.array([_smaller(size, least) for size in sizes], pa.bool_()),
        }
        self._artifact.write_tensors(latents_path("", number), latent_tensors(latents, family.dtype))
        # Last, as it marks the shard as complete.
        table = sample_table(columns, [image.data for image in images])
        self._artifact.write_table(shard_path("", number), table)


def _smaller(size: tuple[int, int], least: tuple[int, int]) -> bool:
    """Report whether an image of (width, height) is smaller than (height, width) pixels."""
    return size[0] < least[1] or size[1] < least[0]


def _enlarged(artifact: Artifact, shards: int, recipe: Recipe) -> int:
    """Return the number of images that were smaller than those of the model, and warn of them."""
    count = 0
    for path in (shard_path("", shard) for shard in range(shards)):
        column = artifact.read_columns(path, [ENLARGED])
        if ENLARGED in column.column_names:
            count += sum(column[ENLARGED].to_pylist())
            continue
        # A version without this column began the import.
        least = load_weightless(recipe.model).image_size(recipe.generate)
        images = artifact.read_table(path, ["image"])["image"].to_pylist()
        count += sum(_smaller(decode_image(image["bytes"]).size, least) for image in images)
    if count:
        say(f"import images: {count:,} images are smaller than the model's and were enlarged for training")
    return count


def _count(entries: Sequence[Entry]) -> int:
    return sum(len(entry.images) for entry in entries)


def _report_space(
    family: "Family", settings: GenerateSection, entries: Sequence[Entry], folder: Path
) -> None:
    images = _count(entries)
    space = DiskSpace(
        image_space(images, math.prod(family.image_size(settings)), "jpeg"),
        latents=images * math.prod(family.latent_shape(settings)) * family.dtype.itemsize,
        conditioning=len(entries) * sum(tensor.nbytes for tensor in family.encode([""]).values()),
    )
    say(f"import images: {check_space(space, folder)}")
