"""What training reads: the pairs that may be drawn, and the latents and conditioning of samples."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from capo.method.selection import allowed_pairs
from capo.workspace import Artefact, WorkspaceError


@dataclass(frozen=True)
class PromptPairs:
    """One prompt's pairs: any row of `allowed` may be drawn."""

    prompt_id: str
    allowed: Tensor
    """int64 [n, 2]: sample indices of chosen and rejected, n >= 1."""
    combined: Tensor
    """float64 [N]: calibrated reward, combined over the rewards; NaN where set aside."""

    def delta_reward(self, chosen: int, rejected: int) -> float:
        """ΔR of Eq. 8, in [-1, 1]."""
        return float(self.combined[chosen] - self.combined[rejected])


@dataclass(frozen=True)
class PairCounts:
    """How many prompts have pairs, and why the others have none."""

    used: int
    no_pair: int
    """Neither set has a sample: nothing was better than anything else."""
    dropped: int
    """All their pairs are at or below the least margin."""


def read_pairs(artefact: Artefact, min_margin: float | None) -> tuple[list[PromptPairs], PairCounts]:
    """The prompts to train on, in order, with every pair whose ΔR is above `min_margin`.

    Raises `WorkspaceError` when no prompt is left.
    """
    columns = ["prompt_id", "chosen", "rejected", "combined"]
    prompts, no_pair, dropped = [], 0, 0
    for row in artefact.read_table("pairs.parquet", columns).to_pylist():
        combined = torch.tensor(
            [float("nan") if value is None else value for value in row["combined"]], dtype=torch.float64
        )
        chosen, rejected = (_mask(row[side], len(combined)) for side in ("chosen", "rejected"))
        allowed = allowed_pairs(chosen, rejected, combined, min_margin)
        if len(allowed):
            prompts.append(PromptPairs(row["prompt_id"], allowed, combined))
        elif chosen.any():
            dropped += 1
        else:
            no_pair += 1
    if not prompts:
        raise WorkspaceError(
            f"{artefact.folder / 'pairs.parquet'}: no pair to train on ({no_pair} prompts without a pair, "
            f"{dropped} with none above the margin {min_margin}); lower pairs.min_margin, or generate "
            "more samples"
        )
    return prompts, PairCounts(len(prompts), no_pair, dropped)


def _mask(samples: Sequence[int], count: int) -> Tensor:
    mask = torch.zeros(count, dtype=torch.bool)
    mask[torch.tensor(samples, dtype=torch.int64)] = True
    return mask


class Samples:
    """The latents and conditioning of `samples/`.

    A shard's latents are read when first needed, and kept in memory. Its conditioning, which weighs
    more with long text encoders, stays on disk: rows are read from the mapped file.
    """

    def __init__(self, artefact: Artefact) -> None:
        self._artefact = artefact
        self._place: dict[str, tuple[str, int]] = {}
        for name in artefact.files():
            if name.endswith(".parquet"):
                ids = dict.fromkeys(artefact.read_table(name, ["prompt_id"])["prompt_id"].to_pylist())
                self._place |= {prompt_id: (name, row) for row, prompt_id in enumerate(ids)}
        self._latents: dict[str, Tensor] = {}

    def latent(self, prompt_id: str, sample: int) -> Tensor:
        """float32 [C, H, W]."""
        shard, row = self._find(prompt_id)
        if shard not in self._latents:
            self._latents[shard] = self._read_latents(shard)
        return self._latents[shard][row, sample]

    def conditioning(self, prompt_id: str) -> dict[str, Tensor]:
        """The family's conditioning of one prompt, without the prompt dimension."""
        from safetensors import safe_open

        shard, row = self._find(prompt_id)
        path = self._artefact.path(_conditioning(shard))
        with safe_open(path, "pt") as file:
            return {name: file.get_slice(name)[row] for name in file.keys()}  # noqa: SIM118

    def forecast(self, prompt_ids: Iterable[str]) -> tuple[int, int]:
        """Bytes of the latents and of the conditioning of the shards with these prompts."""
        shards = {self._find(prompt_id)[0] for prompt_id in prompt_ids}
        manifest = self._artefact.manifest()
        files = {} if manifest is None else manifest.files
        conditioning = sum(files.get(_conditioning(shard), {"bytes": 0})["bytes"] for shard in shards)
        prompts = sum(shard in shards for shard, _ in self._place.values())
        return prompts * self._read_latents(min(shards))[0].nbytes, conditioning

    def _find(self, prompt_id: str) -> tuple[str, int]:
        try:
            return self._place[prompt_id]
        except KeyError:
            raise WorkspaceError(
                f"{self._artefact.folder}: no samples of prompt {prompt_id}, which has pairs"
            ) from None

    def _read_latents(self, shard: str) -> Tensor:
        """[prompts, N, C, H, W] of a shard."""
        table = self._artefact.read_table(shard, ["prompt_id", "latent"])
        shape = json.loads(table.schema.metadata[b"latent_shape"])
        # A copy: Arrow's memory is read-only.
        flat = torch.from_numpy(table["latent"].combine_chunks().flatten().to_numpy().copy())
        prompts = len(table["prompt_id"].unique())
        return flat.view(prompts, -1, *shape)


def _conditioning(shard: str) -> str:
    return shard.removesuffix(".parquet") + ".conditioning.safetensors"
