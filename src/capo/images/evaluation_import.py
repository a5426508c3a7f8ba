"""Existing images in place of a model's, for an evaluation.

They are matched to prompts by their caption, or by the name of their folder: the prompt's id, or its number
among the evaluation prompts, counted from 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capo.engine.progress import progress
from capo.images.entries import ImageSource, Place
from capo.images.sample_table import sample_table
from capo.images.shard_files import shard_path
from capo.images.sources import open_images
from capo.prompts import Prompt
from capo.recipe import ImagesSection
from capo.rewards.rgb_images import decode_image
from capo.store import Artifact

if TYPE_CHECKING:
    import pyarrow as pa

Images = tuple[Prompt, tuple[Place, ...]]
"""A prompt and the places of its images."""


@dataclass(frozen=True)
class EvaluationImages:
    """The existing images that take the place of a model's."""

    section: ImagesSection
    samples: int
    """K, images of each prompt."""
    shard_prompts: int
    check: Callable[[tuple[int, int], str], None]
    """Called with (height, width) of every image and a description; raises for sizes that do not fit."""


def import_evaluation_images(
    artifact: Artifact, folder: str, prompts: Sequence[Prompt], request: EvaluationImages
) -> None:
    """Write the first K images of each prompt into the missing shards of `folder`.

    Raises `ValueError` if a prompt has fewer images, and for an image that cannot be read or that
    `request.check` rejects.
    """
    source, size = open_images(request.section), request.shard_prompts
    images = _match(request, source, prompts)
    with progress(f"evaluate: images of {request.section.source}", len(prompts), "prompts") as bar:
        for shard, start in enumerate(range(0, len(prompts), size)):
            part = images[start : start + size]
            done = artifact.has(shard_path(folder, shard))
            if not done:
                artifact.write_table(shard_path(folder, shard), _table(request, source, part))
            bar.advance(len(part), resumed=done)


def _match(request: EvaluationImages, source: ImageSource, prompts: Sequence[Prompt]) -> list[Images]:
    """Return the first K images of each prompt."""
    by_caption: dict[str, tuple[Place, ...]] = {}
    for entry in source.entries:
        caption = entry.prompt.text
        by_caption[caption] = by_caption.get(caption, ()) + entry.images
    numbers = {int(caption): images for caption, images in by_caption.items() if caption.isdecimal()}
    matched = []
    for number, prompt in enumerate(prompts):
        images = by_caption.get(prompt.text) or by_caption.get(prompt.prompt_id) or numbers.get(number, ())
        if len(images) < request.samples:
            raise ValueError(
                f"{request.section.source} has {len(images)} images of prompt {number}, {prompt.text!r} (id "
                f"{prompt.prompt_id}), but evaluate.samples_per_prompt is {request.samples}"
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
