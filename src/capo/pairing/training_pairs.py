"""The pairs that training may draw, prompt by prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
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


class TrainingPairs(Sequence[PromptPairs]):
    """The prompts to train on, in order.

    Pairs are listed when a prompt is asked for: the lists of 100,000 prompts would take a gigabyte.
    """

    def __init__(self, table: PairTable, min_margin: float | None) -> None:
        self._ids, self._starts = table.prompt_ids, table.starts
        self._chosen, self._rejected, self._combined = table.chosen, table.rejected, table.combined
        self._compared, self._min_margin = table.compared, min_margin
        self._used = np.flatnonzero(self._with_pairs())

    def __len__(self) -> int:
        return len(self._used)

    @overload
    def __getitem__(self, place: int) -> PromptPairs: ...
    @overload
    def __getitem__(self, place: slice) -> list[PromptPairs]: ...
    def __getitem__(self, place: int | slice) -> PromptPairs | list[PromptPairs]:
        if isinstance(place, slice):
            return [self._pairs(int(prompt)) for prompt in self._used[place]]
        return self._pairs(int(self._used[place]))

    @property
    def ids(self) -> list[str]:
        """The ids of the prompts, in order."""
        return [self._ids[prompt] for prompt in self._used]

    @property
    def counts(self) -> PairCounts:
        """The numbers of prompts with and without pairs."""
        paired = int(np.count_nonzero(self._reduced(np.maximum, self._chosen, False)))
        return PairCounts(len(self), len(self._ids) - paired, paired - len(self))

    def _pairs(self, prompt: int) -> PromptPairs:
        own = slice(self._starts[prompt], self._starts[prompt + 1])
        columns = (self._chosen[own], self._rejected[own], self._combined[own])
        chosen, rejected, combined = map(torch.from_numpy, columns)
        allowed = allowed_pairs(chosen, rejected, combined, self._min_margin)
        if self._compared is not None:
            compared = torch.from_numpy(self._compared[prompt])
            allowed = allowed[(allowed[:, None] == compared).all(dim=-1).any(dim=-1)]
        return PromptPairs(self._ids[prompt], allowed, combined)

    def _with_pairs(self) -> np.ndarray:
        """Bool [P]: the prompts with a pair above the margin."""
        best = self._reduced(np.maximum, np.where(self._chosen, self._combined, -np.inf), -np.inf)
        worst = self._reduced(np.minimum, np.where(self._rejected, self._combined, np.inf), np.inf)
        margin = -np.inf if self._min_margin is None else self._min_margin
        used = ~(best - worst <= margin)
        if self._compared is not None:  # a pair of the best and the worst may be none that was compared
            used[used] = [len(self._pairs(int(prompt)).allowed) > 0 for prompt in np.flatnonzero(used)]
        return used

    def _reduced(self, reduce: np.ufunc, values: np.ndarray, without: float) -> np.ndarray:
        """Reduce values [M] to one per prompt [P], which is `without` for a prompt that has no sample."""
        starts, sampled = self._starts[:-1], np.diff(self._starts) > 0
        reduced = np.full(len(starts), without, dtype=values.dtype)
        if sampled.any():
            reduced[sampled] = reduce.reduceat(values, starts[sampled])
        return reduced


def read_pairs(artifact: Artifact, min_margin: float | None) -> tuple[TrainingPairs, PairCounts]:
    """The prompts to train on, with every pair whose ΔR is above `min_margin`.

    Raises `WorkspaceError` when no prompt is left.
    """
    prompts = TrainingPairs(PairTable.read(artifact), min_margin)
    counts = prompts.counts
    if not prompts:
        why = f"{counts.no_pair} prompts have no pair"
        if counts.dropped:
            why += f", {counts.dropped} have none above the margin {min_margin}: lower pairs.min_margin"
        raise WorkspaceError(
            f"{artifact.folder / 'pairs.parquet'}: no pair to train on ({why}), or generate more samples"
        )
    return prompts, counts
