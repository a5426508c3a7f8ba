"""Images for the page: read from their shards, shrunk, and embedded as `data:` addresses."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from capo.images.shard_files import shard_path
from capo.store import Artifact, WorkspaceError

TINY = 128
"""Images with sides up to this many pixels are enlarged without smoothing."""


@dataclass(frozen=True)
class Picture:
    """An image as a `data:` address, with its size in pixels."""

    uri: str
    width: int
    height: int
    original: tuple[int, int]
    """Width and height before it was shrunk."""

    @property
    def tiny(self) -> bool:
        return max(self.width, self.height) <= TINY


class Gallery:
    """The images in one folder of an artifact, such as `samples` or `images/tuned` of an evaluation.

    `order` has the ids of all prompts in the order of the shards, with `shard_prompts` prompts per shard.
    """

    def __init__(self, artifact: Artifact, folder: str, order: Sequence[str], shard_prompts: int) -> None:
        self._artifact, self._folder = artifact, folder
        self._shard = {prompt: i // shard_prompts for i, prompt in enumerate(order)}

    def pictures(self, wanted: Mapping[str, Sequence[int]], longest: int) -> dict[tuple[str, int], Picture]:
        """Return the wanted samples by (prompt, sample), with sides of at most `longest` pixels.

        Reads only the shards that hold them. Raises `WorkspaceError` if an image is missing.
        """
        pictures: dict[tuple[str, int], Picture] = {}
        for shard in sorted({self._shard[prompt] for prompt in wanted}):
            pictures |= self._pictures_in(shard, wanted, longest)
        for prompt, samples in wanted.items():
            for sample in samples:
                if (prompt, sample) not in pictures:
                    raise WorkspaceError(
                        f"{self._artifact.folder / self._place(self._shard[prompt])}: no image of sample "
                        f"{sample} of prompt {prompt}; make {self._artifact.name} again"
                    )
        return pictures

    def seeds(self, prompts: Sequence[str]) -> dict[str, int]:
        """Return the seed of the first sample of each prompt; empty for images that no model here made."""
        seeds: dict[str, int] = {}
        for shard in sorted({self._shard[prompt] for prompt in prompts}):
            table = self._artifact.read_table(self._place(shard))
            if "seed" not in table.column_names:
                return {}
            rows = table.select(["prompt_id", "sample", "seed"]).to_pylist()
            seeds |= {row["prompt_id"]: row["seed"] for row in rows if row["sample"] == 0}
        return {prompt: seeds[prompt] for prompt in prompts}

    def _place(self, shard: int) -> str:
        return shard_path(self._folder, shard)

    def _pictures_in(
        self, shard: int, wanted: Mapping[str, Sequence[int]], longest: int
    ) -> dict[tuple[str, int], Picture]:
        table = self._artifact.read_table(self._place(shard), columns=["prompt_id", "sample", "image"])
        keys = zip(table["prompt_id"].to_pylist(), table["sample"].to_pylist(), strict=True)
        return {
            (prompt, sample): embed(table["image"][row].as_py()["bytes"], longest)
            for row, (prompt, sample) in enumerate(keys)
            if sample in wanted.get(prompt, ())
        }


def embed(data: bytes, longest: int) -> Picture:
    """Decode an image, shrink it to sides of at most `longest` pixels, and encode it again.

    Small images stay lossless (PNG); larger ones become JPEG. Metadata is dropped.
    """
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        small = image.convert("RGB")
    original = small.size
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    tiny = max(small.size) <= TINY and max(small.size) < longest
    buffer = io.BytesIO()
    if tiny:
        small.save(buffer, "PNG", optimize=True)
    else:
        small.save(buffer, "JPEG", quality=84, optimize=True)
    kind = "png" if tiny else "jpeg"
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(f"data:image/{kind};base64,{encoded}", *small.size, original)
