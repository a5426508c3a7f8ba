"""Samples that are there already: images from elsewhere, and what training needs of them.

    samples/shard-00000.parquet                    a row an image, ordered by prompt, then sample
    samples/shard-00000.conditioning.safetensors   a row a prompt that has an image

The files are those of the generate stage, but for the seeds: an image is kept as it came, its
latent is the VAE's, and a `label` says what people preferred. How many images there are may differ
from prompt to prompt.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capo.diffusion import load_family
from capo.engine import device as runtime
from capo.engine.progress import progress, say
from capo.images import Entry, ExchangeError, ImageSource, open_images
from capo.images.disk_space import Space, check_space, image_space
from capo.images.shard import latent_tensors, sample_table
from capo.images.shard_files import conditioning_path, latents_path, shard_path
from capo.prompts import Prompt
from capo.prompts.table import read_prompts
from capo.recipe import Recipe
from capo.rewards.rgb_images import decode_image
from capo.store.run_directory import Artifact
from capo.store.step import Job

if TYPE_CHECKING:
    from capo.diffusion.family import Family

IMAGES_AT_ONCE = 16
"""Decoded images in memory."""

REASONS_SHOWN = 3


@dataclass(frozen=True)
class Readable:
    """An image that can be used."""

    prompt_id: str
    sample: int
    """Counts the readable images of the prompt from 0."""
    origin: str
    data: bytes
    label: float | None


def take_samples(job: Job) -> None:
    """Fill `samples/` with the images of all prompts of the run, shard by shard.

    An image that cannot be read is left out and counted. Raises `ExchangeError` as soon as these
    are more than `pairs.max_skipped` of all.
    """
    recipe, artifact = job.recipe, job.artifact
    assert recipe.images is not None
    prompts = read_prompts(job.run)
    source = open_images(recipe.images)
    entries = {entry.prompt.prompt_id: entry for entry in source.entries}
    size = recipe.generate.shard_prompts
    shards = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    total = sum(len(entries[prompt.prompt_id].images) for prompt in prompts)
    unreadable = _Unreadable(total, recipe.pairs.max_skipped)
    family: Family | None = None
    with progress("take images", total, "images") as bar:
        for number, part in enumerate(shards):
            wanted = [entries[prompt.prompt_id] for prompt in part]
            count = sum(len(entry.images) for entry in wanted)
            if artifact.has(shard_path("", number)):
                rows = artifact.read_table(shard_path("", number), ["prompt_id"])
                unreadable.count += count - len(rows)
            else:
                if family is None:
                    family = load_family(recipe.model, runtime.device(recipe.engine))
                    left = [prompt for later in shards[number:] for prompt in later]
                    images = sum(len(entries[prompt.prompt_id].images) for prompt in left)
                    _check_space(recipe, family, artifact, images, len(left))
                found = _readable(source, wanted, unreadable)
                _write(recipe, family, artifact, number, part, found)
            bar.advance(count, resumed=family is None)
    artifact.commit(
        {"prompts": len(prompts), "samples": total - unreadable.count, "unreadable": unreadable.count}
    )


class _Unreadable:
    """Counts the images that cannot be read, and tells of the first."""

    def __init__(self, total: int, limit: float) -> None:
        self.count = 0
        self._total, self._limit = total, limit
        self._reasons: list[str] = []

    def add(self, name: str, error: Exception) -> None:
        self.count += 1
        self._reasons.append(f"  {name}: {error}")
        if self.count > self._limit * self._total:
            raise ExchangeError(
                "\n".join(
                    [
                        f"{self.count} of {self._total} images cannot be read, more than pairs.max_skipped "
                        f"= {self._limit:g} allows; the first:",
                        *self._reasons[:REASONS_SHOWN],
                    ]
                )
            )


def _readable(source: ImageSource, entries: Sequence[Entry], unreadable: _Unreadable) -> list[Readable]:
    found = []
    for entry in entries:
        sample = 0
        for place, label in zip(entry.images, entry.labels or (None,) * len(entry.images), strict=True):
            try:
                data = source.read(place)
                decode_image(data)
            except (OSError, ValueError) as error:
                unreadable.add(source.name(place), error)
                continue
            found.append(Readable(entry.prompt.prompt_id, sample, source.name(place), data, label))
            sample += 1
    return found


def _write(
    recipe: Recipe,
    family: "Family",
    artifact: Artifact,
    number: int,
    prompts: Sequence[Prompt],
    images: list[Readable],
) -> None:
    import pyarrow as pa
    import torch

    latents = [torch.empty(0, *family.latent_shape(recipe.generate))]
    for start in range(0, len(images), IMAGES_AT_ONCE):
        decoded = [decode_image(image.data) for image in images[start : start + IMAGES_AT_ONCE]]
        latents.append(family.encode_images(decoded, recipe.generate))
    present = {image.prompt_id for image in images}
    texts = [prompt.text for prompt in prompts if prompt.prompt_id in present]
    if texts:
        artifact.write_tensors(conditioning_path("", number), family.encode(texts))
    columns = {
        "prompt_id": pa.array([image.prompt_id for image in images], pa.string()),
        "sample": pa.array([image.sample for image in images], pa.int32()),
        "origin": pa.array([image.origin for image in images], pa.string()),
        "label": pa.array([image.label for image in images], pa.float64()),
    }
    artifact.write_tensors(latents_path("", number), latent_tensors(latents, family.dtype))
    table = sample_table(columns, [image.data for image in images])
    # The last of its files: the table says that the shard is complete.
    artifact.write_table(shard_path("", number), table)


def _check_space(recipe: Recipe, family: "Family", artifact: Artifact, images: int, prompts: int) -> None:
    settings = recipe.generate
    space = Space(
        image_space(images, math.prod(family.image_size(settings)), "jpeg"),
        latents=images * math.prod(family.latent_shape(settings)) * family.dtype.itemsize,
        conditioning=prompts * sum(tensor.nbytes for tensor in family.encode([""]).values()),
    )
    say(f"take images: {check_space(space, artifact.folder)}")
