"""Images that an artifact had before its settings asked for more of the same.

`former/` in the artifact has the shards of what it replaced, until all images are there. An image has an
address (prompt, number) and so a seed, but its last bits also depend on the images that were computed beside
it. So a former image is used where its whole batch is made again: with the same images, from the same
conditioning. The result equals that of making everything at once, byte for byte.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from capo.images.shard_files import latents_path, path_in, shard_path
from capo.sampling.image_request import ImageRequest
from capo.store import Artifact

if TYPE_CHECKING:
    from torch import Tensor

    from capo.diffusion.family import Family

FORMER = "former"

Conditioning = Mapping[str, "Tensor"]
Address = tuple[str, int, int]
"""Prompt id, number, and seed of an image."""


@dataclass(frozen=True)
class Reused:
    """A batch of former images: their files, and their latents [B, C, H, W] in float32 if there are any."""

    files: list[bytes]
    latents: "Tensor | None"


class FormerImages:
    """The former images of a request."""

    def __init__(self, artifact: Artifact, request: ImageRequest, family: "Family") -> None:
        self._artifact, self._request, self._family = artifact, request, family
        self._folder = path_in(FORMER, request.folder) if request.folder else FORMER
        self._texts = {prompt.prompt_id: prompt.text for prompt in request.prompts}
        self._conditioning = lru_cache(maxsize=2)(self._encode)

    def find(
        self, batch: Sequence[Address], size: int, conditioning: Sequence[Conditioning]
    ) -> Reused | None:
        """Return a batch of at most `size` images if it was made just so before, and otherwise None.

        `conditioning` is that of every image.
        """
        place = self._places.get(batch[0])
        if place is None:
            return None
        shard, row = place
        stop, addresses = row + len(batch), self._addresses[shard]
        whole = row % size == 0 and stop in (row + size, len(addresses))
        if not whole or addresses[row:stop] != list(batch) or not self._same(shard, batch, conditioning):
            return None
        table = self._artifact.read_table(shard_path(self._folder, shard), ["image"])
        files = [image["bytes"] for image in table["image"].slice(row, len(batch)).to_pylist()]
        return Reused(files, self._latents(shard, range(row, stop)))

    def _latents(self, shard: int, rows: range) -> "Tensor | None":
        import torch

        if not self._request.keep_latents:
            return None
        path = latents_path(self._folder, shard)
        return torch.stack([self._artifact.read_row(path, row)["latents"] for row in rows]).float()

    def _same(self, shard: int, batch: Sequence[Address], conditioning: Sequence[Conditioning]) -> bool:
        """Report whether the prompts of a batch had the same conditioning, bit for bit, in their shard."""
        import torch

        prompts = list(dict.fromkeys(prompt for prompt, *_ in self._addresses[shard]))
        if not set(prompts) <= self._texts.keys():
            return False
        former = self._conditioning(tuple(prompts))
        return all(
            torch.equal(former[name][prompts.index(prompt)], tensor)
            for (prompt, *_), of_image in zip(batch, conditioning, strict=True)
            for name, tensor in of_image.items()
        )

    def _encode(self, prompts: tuple[str, ...]) -> Conditioning:
        return self._family.encode([self._texts[prompt] for prompt in prompts])

    @cached_property
    def _addresses(self) -> list[list[Address]]:
        """The images of every shard, in the order in which they were made."""
        shards: list[list[Address]] = []
        while self._artifact.has(path := shard_path(self._folder, len(shards))):
            table = self._artifact.read_columns(path, ["prompt_id", "sample", "seed"])
            columns = (table[name].to_pylist() for name in ("prompt_id", "sample", "seed"))
            shards.append(list(zip(*columns, strict=True)))
        return shards

    @cached_property
    def _places(self) -> dict[Address, tuple[int, int]]:
        """Shard and row of every image."""
        return {
            address: (shard, row)
            for shard, addresses in enumerate(self._addresses)
            for row, address in enumerate(addresses)
        }


def kept_former(file: str, changed: Collection[str], growth: Collection[str]) -> str | None:
    """Return where a file of images is kept if only inputs beginning like `growth` have changed."""
    grown = all(field.startswith(tuple(growth)) for field in changed)
    image = file.endswith((".parquet", ".latents.safetensors")) and "shard-" in file
    return f"{FORMER}/{file}" if grown and image and not file.startswith(FORMER) else None
