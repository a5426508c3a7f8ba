"""The latents and conditioning that training reads from the samples."""

import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from capo.store import Artifact, WorkspaceError


class Samples:
    """The latents and conditioning of `samples/`.

    Both stay on disk: a row is read from the memory-mapped file when it is needed, so hundreds of gigabytes
    of samples train on a machine with little memory.
    """

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        self._places: dict[str, _Place] = {}
        for name in artifact.files():
            if name.endswith(".parquet"):
                counts = Counter(artifact.read_columns(name, ["prompt_id"])["prompt_id"].to_pylist())
                ends = itertools.accumulate(counts.values())
                for row, (prompt_id, end) in enumerate(zip(counts, ends, strict=True)):
                    shard = name.removesuffix(".parquet")
                    self._places[prompt_id] = _Place(shard, row, end - counts[prompt_id], counts[prompt_id])

    def latent(self, prompt_id: str, sample: int) -> Tensor:
        """Return a latent [C, H, W] in float32; raises `IndexError` if the prompt has no such sample."""
        place = self._find(prompt_id)
        if not 0 <= sample < place.samples:
            raise IndexError(f"prompt {prompt_id} has {place.samples} samples, not a sample {sample}")
        return self._rows(place.shard, "latents", place.first + sample)["latents"].float()

    def conditioning(self, prompt_id: str) -> dict[str, Tensor]:
        """Return the family's conditioning of one prompt, without the prompt dimension."""
        place = self._find(prompt_id)
        return self._rows(place.shard, "conditioning", place.row)

    def forecast(self, prompt_ids: Iterable[str]) -> tuple[int, int]:
        """Return the bytes of latents and of conditioning on disk, over the shards with these prompts."""
        shards = {self._find(prompt_id).shard for prompt_id in prompt_ids}
        latents, conditioning = (
            sum((self._artifact.folder / _file(shard, kind)).stat().st_size for shard in shards)
            for kind in ("latents", "conditioning")
        )
        return latents, conditioning

    def _find(self, prompt_id: str) -> "_Place":
        try:
            return self._places[prompt_id]
        except KeyError:
            raise WorkspaceError(
                f"{self._artifact.folder}: no samples of prompt {prompt_id}, which has pairs"
            ) from None

    def _rows(self, shard: str, kind: str, row: int) -> dict[str, Tensor]:
        """Read one row of every tensor in a shard's file."""
        return self._artifact.read_row(_file(shard, kind), row)


@dataclass(frozen=True)
class _Place:
    """The location of a prompt's samples."""

    shard: str
    row: int
    """The prompt's row in the shard."""
    first: int
    """The row of its first sample."""
    samples: int


def _file(shard: str, kind: str) -> str:
    return f"{shard}.{kind}.safetensors"
