"""Existing images as the samples of a run, with the latents and conditioning that training needs.

    samples/shard-00000.parquet                    one row per image, ordered by prompt, then sample
    samples/shard-00000.latents.safetensors        one row per image
    samples/shard-00000.conditioning.safetensors   one row per prompt that has an image

The files are those of the generate stage, without seeds: an image is kept unchanged, its latent is the VAE's
encoding, and `label` is what people preferred. Prompts may differ in their number of images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from capo.diffusion import load_family
from capo.engine.device import select_device
from capo.engine.progress import progress, say
from capo.images.disk_space import DiskSpace, check_space, image_space
from capo.images.entries import Entry, ImagesError, ImageSource
from capo.images.sample_table import latent_tensors, sample_table
from capo.images.shard_files import conditioning_path, latents_path, shard_path
from capo.images.sources import open_images
from capo.prompts import Prompt
from capo.prompts.table import read_prompts
from capo.recipe import GenerateSection
from capo.rewards.rgb_images import decode_image
from capo.store import Artifact
from capo.store.step import Job

if TYPE_CHECKING:
    from capo.diffusion.family import Family

ENCODED_TOGETHER = 16
"""Decoded images in memory."""

REASONS_SHOWN = 3


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
    assert recipe.images is not None
    source = open_images(recipe.images)
    by_prompt = {entry.prompt.prompt_id: entry for entry in source.entries}
    entries = [by_prompt[prompt.prompt_id] for prompt in read_prompts(job.run)]
    unreadable = _UnreadableImages(_count(entries), recipe.pairs.max_skipped)
    size = recipe.generate.shard_prompts
    family: Family | None = None
    with progress("import images", unreadable.total, "images") as bar:
        for number, start in enumerate(range(0, len(entries), size)):
            part = entries[start : start + size]
            done = artifact.has(shard_path("", number))
            if done:
                rows = artifact.read_columns(shard_path("", number), ["prompt_id"])
                unreadable.count += _count(part) - len(rows)
            else:
                if family is None:
                    family = load_family(recipe.model, select_device(recipe.engine))
                    _report_space(family, recipe.generate, entries[start:], artifact.folder)
                images = _read_images(source, part, unreadable)
                _write_shard(artifact, number, images, family, recipe.generate)
            bar.advance(_count(part), resumed=done)
    samples = unreadable.total - unreadable.count
    artifact.commit({"prompts": len(entries), "samples": samples, "unreadable": unreadable.count})


class _UnreadableImages:
    """Counts images that cannot be read, and raises once their share is too large."""

    def __init__(self, total: int, limit: float) -> None:
        self.total, self.count = total, 0
        self._limit = limit
        self._reasons: list[str] = []

    def add(self, name: str, error: Exception) -> None:
        self.count += 1
        self._reasons.append(f"  {name}: {error}")
        if self.count > self._limit * self.total:
            lines = [
                f"{self.count} of {self.total} images cannot be read, more than pairs.max_skipped = "
                f"{self._limit:g} allows; the first:",
                *self._reasons[:REASONS_SHOWN],
            ]
            raise ImagesError("\n".join(lines))


def _count(entries: Sequence[Entry]) -> int:
    return sum(len(entry.images) for entry in entries)


def _read_images(
    source: ImageSource, entries: Sequence[Entry], unreadable: _UnreadableImages
) -> list[ImportedImage]:
    images = []
    for entry in entries:
        sample = 0
        for place, label in zip(entry.images, entry.labels or (None,) * len(entry.images), strict=True):
            try:
                data = source.read(place)
                decode_image(data)
            except (OSError, ValueError) as error:
                unreadable.add(source.name(place), error)
                continue
            images.append(ImportedImage(entry.prompt, sample, source.name(place), data, label))
            sample += 1
    return images


def _write_shard(
    artifact: Artifact,
    number: int,
    images: Sequence[ImportedImage],
    family: "Family",
    settings: GenerateSection,
) -> None:
    import pyarrow as pa
    import torch

    latents = [torch.empty(0, *family.latent_shape(settings))]
    for start in range(0, len(images), ENCODED_TOGETHER):
        decoded = [decode_image(image.data) for image in images[start : start + ENCODED_TOGETHER]]
        latents.append(family.encode_images(decoded, settings))
    texts = {image.prompt.prompt_id: image.prompt.text for image in images}
    if texts:
        artifact.write_tensors(conditioning_path("", number), family.encode([*texts.values()]))
    columns = {
        "prompt_id": pa.array([image.prompt.prompt_id for image in images], pa.string()),
        "sample": pa.array([image.sample for image in images], pa.int32()),
        "origin": pa.array([image.origin for image in images], pa.string()),
        "label": pa.array([image.label for image in images], pa.float64()),
    }
    artifact.write_tensors(latents_path("", number), latent_tensors(latents, family.dtype))
    # Last, as it marks the shard as complete.
    artifact.write_table(shard_path("", number), sample_table(columns, [image.data for image in images]))


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
