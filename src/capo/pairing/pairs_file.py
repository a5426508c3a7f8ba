"""Reading `pairs.parquet`: the pairs that training may draw, prompt by prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from capo.method.selection import allowed_pairs
from capo.store import Artifact, WorkspaceError


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


def read_pairs(artifact: Artifact, min_margin: float | None) -> tuple[list[PromptPairs], PairCounts]:
    """The prompts to train on, in order, with every pair whose ΔR is above `min_margin`.

    Raises `WorkspaceError` when no prompt is left.
    """
    columns = ["prompt_id", "chosen", "rejected", "combined", "compared"]
    prompts, no_pair, dropped = [], 0, 0
    for row in artifact.read_table("pairs.parquet", columns).to_pylist():
        combined = torch.tensor(
            [float("nan") if value is None else value for value in row["combined"]], dtype=torch.float64
        )
        chosen, rejected = (_mask(row[side], len(combined)) for side in ("chosen", "rejected"))
        allowed = allowed_pairs(chosen, rejected, combined, min_margin)
        if "compared" in row:  # only what was compared, not all chosen with all rejected samples
            told = torch.tensor(row["compared"], dtype=torch.int64).reshape(-1, 2)
            allowed = allowed[(allowed[:, None] == told).all(dim=-1).any(dim=-1)]
        if len(allowed):
            prompts.append(PromptPairs(row["prompt_id"], allowed, combined))
        elif chosen.any():
            dropped += 1
        else:
            no_pair += 1
    if not prompts:
        why = f"{no_pair} prompts without a pair"
        if dropped:
            why += f", {dropped} with none above the margin {min_margin}: lower pairs.min_margin"
        raise WorkspaceError(
            f"{artifact.folder / 'pairs.parquet'}: no pair to train on ({why}); generate more samples"
        )
    return prompts, PairCounts(len(prompts), no_pair, dropped)


def _mask(samples: Sequence[int], count: int) -> Tensor:
    mask = torch.zeros(count, dtype=torch.bool)
    mask[torch.tensor(samples, dtype=torch.int64)] = True
    return mask
