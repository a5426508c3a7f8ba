"""Images that are there already, in the place of a model's, for an evaluation.

A prompt's images are found by its text, as `metadata.jsonl` or a `prompt.txt` says it, or by the
name of their folder: the prompt's id, or its number among the evaluation prompts, counted from 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capo.engine.progress import progress
from capo.images import ImageSource, open_images
from capo.images.shard import sample_table
from capo.images.shard_files import shard_path
from capo.prompts import Prompt
from capo.recipe import ImagesSection
from capo.rewards.rgb_images import decode_image
from capo.store.run_directory import Artifact

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class GivenImages:
    """Which existing images take the place of a model's."""

    section: ImagesSection
    samples: int
    """K, images of each prompt."""
    shard_prompts: int
    check: Callable[[tuple[int, int], str], None]
    """Called with (height, width) of every image and a description; raises for sizes that do not fit."""


def take_given(artifact: Artifact, folder: str, prompts: Sequence[Prompt], request: GivenImages) -> None:
    """Write the first K images of each prompt into shards in `folder`, those that are not there yet.

    Raises `ValueError` when a prompt has fewer images, and for an image that cannot be read or that
    `request.check` rejects.
    """
    source, size = open_images(request.section), request.shard_prompts
    places = _places(request.section.source, source, prompts, request.samples)
    with progress(f"evaluate: images of {request.section.source}", len(prompts), "prompts") as bar:
        for shard, start in enumerate(range(0, len(prompts), size)):
            part = prompts[start : start + size]
            there = artifact.has(shard_path(folder, shard))
            if not there:
                found = places[start : start + size]
                artifact.write_table(shard_path(folder, shard), _table(request, source, part, found))
            bar.advance(len(part), resumed=there)


def _places(
    name: str, source: ImageSource, prompts: Sequence[Prompt], samples: int
) -> list[tuple[object, ...]]:
    """Where the first `samples` images of each prompt are."""
    by_caption: dict[str, tuple[object, ...]] = {}
    for entry in source.entries:
        caption = entry.prompt.text
        by_caption[caption] = by_caption.get(caption, ()) + entry.images
    numbers = {int(caption): images for caption, images in by_caption.items() if caption.isdecimal()}
    found = []
    for number, prompt in enumerate(prompts):
        images = by_caption.get(prompt.text) or by_caption.get(prompt.prompt_id) or numbers.get(number, ())
        if len(images) < samples:
            raise ValueError(
                f"{name} has {len(images)} images of prompt {number}, {prompt.text!r} (its id is "
                f"{prompt.prompt_id}), and evaluate.samples_per_prompt is {samples}"
            )
        found.append(images[:samples])
    return found


def _table(
    request: GivenImages, source: ImageSource, prompts: Sequence[Prompt], places: Sequence[tuple[object, ...]]
) -> "pa.Table":
    import pyarrow as pa

    rows = [
        (prompt.prompt_id, sample, source.name(place), source.read(place))
        for prompt, images in zip(prompts, places, strict=True)
        for sample, place in enumerate(images)
    ]
    for *_, name, data in rows:
        try:
            image = decode_image(data)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        request.check((image.height, image.width), f"{name} is")
    ids, samples, names, images = zip(*rows, strict=True)
    columns = {
        "prompt_id": pa.array(ids, pa.string()),
        "sample": pa.array(samples, pa.int32()),
        "origin": pa.array(names, pa.string()),
    }
    return sample_table(columns, images)
