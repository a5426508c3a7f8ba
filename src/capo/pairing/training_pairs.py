"""The pairs that training may draw, prompt by prompt."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from capo.method.selection import allowed_pairs
from capo.pairing.pair_table import PairTable
from capo.store import Artifact, WorkspaceError


@dataclass(frozen=True)
class PromptPairs:
    """One prompt's pairs; training may draw any row of `allowed`."""

    prompt_id: str
    allowed: Tensor
    """int64 [n, 2]: sample indices of chosen and rejected, n >= 1"""
    combined: Tensor
    """float64 [N]: calibrated rewards, combined over the rewards; NaN for samples that were set aside"""

    def delta_reward(self, chosen: int, rejected: int) -> float:
        """ΔR of Eq. 8, in [-1, 1]."""
        return float(self.combined[chosen] - self.combined[rejected])


@dataclass(frozen=True)
class PairCounts:
    """The numbers of prompts with pairs, and of those without pairs by reason."""

    used: int
    no_pair: int
    """Prompts with empty sets: no sample was better than another."""
    dropped: int
    """Prompts whose pairs are all at or below the minimum margin."""


def read_pairs(artifact: Artifact, min_margin: float | None) -> tuple[list[PromptPairs], PairCounts]:
    """The prompts to train on, in order, with every pair whose ΔR is above `min_margin`.

    Raises `WorkspaceError` when no prompt is left.
    """
    table = PairTable.read(artifact)
    prompts, no_pair, dropped = [], 0, 0
    for index, (start, end) in enumerate(itertools.pairwise(table.starts)):
        chosen, rejected, combined = (
            torch.from_numpy(column[start:end]) for column in (table.chosen, table.rejected, table.combined)
        )
        allowed = allowed_pairs(chosen, rejected, combined, min_margin)
        if table.compared is not None:
            compared = torch.from_numpy(table.compared[index])
            allowed = allowed[(allowed[:, None] == compared).all(dim=-1).any(dim=-1)]
        if len(allowed):
            prompts.append(PromptPairs(table.prompt_ids[index], allowed, combined))
        elif chosen.any():
            dropped += 1
        else:
            no_pair += 1
    if not prompts:
        why = f"{no_pair} prompts have no pair"
        if dropped:
            why += f", {dropped} have none above the margin {min_margin}: lower pairs.min_margin"
        raise WorkspaceError(
            f"{artifact.folder / 'pairs.parquet'}: no pair to train on ({why}), or generate more samples"
        )
    return prompts, PairCounts(len(prompts), no_pair, dropped)
