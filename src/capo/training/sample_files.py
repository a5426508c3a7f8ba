"""The latents and conditioning that training reads from the samples."""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from capo.images.shard_files import shard_path
from capo.prompts.table import read_prompt_ids
from capo.store import Artifact, Run, WorkspaceError


class Samples:
    """The latents and conditioning of `samples/`.

    Both stay on disk: a row is read from the memory-mapped file when it is needed, so hundreds of gigabytes
    of samples train on a machine with little memory.
    """

    def __init__(self, artifact: Artifact, expected: Mapping[str, int] | None = None) -> None:
        """`expected` says in which shard a prompt probably is, by number.

        Only the shards of prompts that are asked for are then opened, and all others if one is not there.
        """
        self._artifact = artifact
        self._expected = expected or {}
        self._unopened = {n.removesuffix(".parquet") for n in artifact.files() if n.endswith(".parquet")}
        self._places: dict[str, _Place] = {}

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
        shards = {self._shard(prompt_id) for prompt_id in prompt_ids}
        latents, conditioning = (
            sum((self._artifact.folder / _file(shard, kind)).stat().st_size for shard in shards)
            for kind in ("latents", "conditioning")
        )
        return latents, conditioning

    def _shard(self, prompt_id: str) -> str:
        """Return the shard of a prompt, without opening it if it is as expected."""
        shard = _name(self._expected.get(prompt_id))
        return shard if shard in self._unopened else self._find(prompt_id).shard

    def _find(self, prompt_id: str) -> "_Place":
        if prompt_id not in self._places:
            self._open(self._unopened & {_name(self._expected.get(prompt_id))})
        if prompt_id not in self._places:
            self._open(set(self._unopened))
        if prompt_id not in self._places:
            raise WorkspaceError(
                f"{self._artifact.folder}: no samples of prompt {prompt_id}, which has pairs"
            )
        return self._places[prompt_id]

    def _open(self, shards: Iterable[str]) -> None:
        """Learn which prompts some shards have."""
        for shard in shards:
            self._unopened.discard(shard)
            rows = self._artifact.read_columns(f"{shard}.parquet", ["prompt_id"])
            counts = Counter(rows["prompt_id"].to_pylist())
            ends = itertools.accumulate(counts.values())
            for row, (prompt_id, end) in enumerate(zip(counts, ends, strict=True)):
                self._places[prompt_id] = _Place(shard, row, end - counts[prompt_id], counts[prompt_id])

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


def expected_shards(run: Run, shard_prompts: int) -> dict[str, int]:
    """Return the shard of every prompt of a run whose samples were made with `generate.shard_prompts`."""
    return {prompt_id: place // shard_prompts for place, prompt_id in enumerate(read_prompt_ids(run))}


def _name(shard: int | None) -> str:
    return "" if shard is None else shard_path("", shard).removesuffix(".parquet")


def _file(shard: str, kind: str) -> str:
    return f"{shard}.{kind}.safetensors"
