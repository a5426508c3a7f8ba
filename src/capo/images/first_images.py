"""A few stored images, decoded: the first of some prompts."""

from typing import TYPE_CHECKING

from capo.images.shard_files import shard_path
from capo.rewards.rgb_images import decode_image
from capo.store import Artifact

if TYPE_CHECKING:
    from PIL import Image


def first_images(artifact: Artifact, folder: str, count: int) -> "dict[str, Image.Image]":
    """Return the first image of at most `count` prompts by id, spread evenly over the first shard."""
    table = artifact.read_table(shard_path(folder, 0), ["prompt_id", "sample", "image"])
    first: dict[str, int] = {}
    for row, prompt_id in enumerate(table["prompt_id"].to_pylist()):
        first.setdefault(prompt_id, row)
    ids, shown = list(first), min(count, len(first))
    chosen = [ids[i * len(ids) // shown] for i in range(shown)]
    return {name: decode_image(table["image"][first[name]].as_py()["bytes"]) for name in chosen}
