"""Images for the page: found in their shards, made small, and written into the page itself."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from capo.store import Artifact, WorkspaceError

TINY = 128
"""Images up to this many pixels a side are shown enlarged, pixel by pixel."""


@dataclass(frozen=True)
class Picture:
    """An image of `width`×`height` pixels as a `data:` address."""

    uri: str
    width: int
    height: int

    @property
    def tiny(self) -> bool:
        return max(self.width, self.height) <= TINY


class Gallery:
    """The images of one folder of samples: `samples`, or a model's of the evaluation.

    `order` has all prompt ids as the shards have them, `shard_prompts` a shard.
    """

    def __init__(self, artifact: Artifact, folder: str, order: Sequence[str], shard_prompts: int) -> None:
        self._artifact, self._folder = artifact, folder
        self._shard = {prompt: i // shard_prompts for i, prompt in enumerate(order)}

    def pictures(self, wanted: Mapping[str, Sequence[int]], longest: int) -> dict[tuple[str, int], Picture]:
        """The samples wanted of each prompt, at most `longest` pixels a side.

        Reads only the shards they are in; raises `WorkspaceError` for one that is not there.
        """
        found: dict[tuple[str, int], Picture] = {}
        for shard in sorted({self._shard[prompt] for prompt in wanted}):
            found |= self._pictures_in(shard, wanted, longest)
        for prompt, samples in wanted.items():
            for sample in samples:
                if (prompt, sample) not in found:
                    raise WorkspaceError(
                        f"{self._artifact.folder / self._folder}: no image of sample {sample} of prompt "
                        f"{prompt} in {_shard_name(self._shard[prompt])}; run {self._artifact.name} again"
                    )
        return found

    def _pictures_in(
        self, shard: int, wanted: Mapping[str, Sequence[int]], longest: int
    ) -> dict[tuple[str, int], Picture]:
        place = f"{self._folder}/{_shard_name(shard)}" if self._folder else _shard_name(shard)
        table = self._artifact.read_table(place, columns=["prompt_id", "sample", "image"])
        keys = zip(table["prompt_id"].to_pylist(), table["sample"].to_pylist(), strict=True)
        return {
            (prompt, sample): embed(table["image"][row].as_py()["bytes"], longest)
            for row, (prompt, sample) in enumerate(keys)
            if sample in wanted.get(prompt, ())
        }


def embed(data: bytes, longest: int) -> Picture:
    """An encoded image, shrunk to at most `longest` pixels a side, encoded anew.

    Tiny ones stay lossless (PNG); photographs become JPEG. Nothing but the pixels is kept.
    """
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        shown = image.convert("RGB")
    shown.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    tiny = max(shown.size) <= TINY and max(shown.size) < longest
    buffer = io.BytesIO()
    if tiny:
        shown.save(buffer, "PNG", optimize=True)
    else:
        shown.save(buffer, "JPEG", quality=84, optimize=True)
    kind = "png" if tiny else "jpeg"
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(f"data:image/{kind};base64,{encoded}", *shown.size)


def _shard_name(index: int) -> str:
    return f"shard-{index:05d}.parquet"
