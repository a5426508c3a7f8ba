"""Calibrate rewards and select the chosen and rejected samples of every prompt.

Notation: P prompts, N samples per prompt, L training rewards. Samples that lack a score are NaN in every
array here, and null in the file.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from capo.engine.device import one_thread
from capo.method import Comparison, Selection, calibrate, select_best_worst, select_frontier, select_sum
from capo.method.selection import combine
from capo.pairing.columns import Columns
from capo.pairing.pair_table import delta_rewards
from capo.recipe import PairsSection, RewardSection
from capo.rewards import describe_comparison

if TYPE_CHECKING:
    import pyarrow as pa


PROMPTS_AT_ONCE = 1 << 14
"""Prompts in a part of the table. The bytes of the file depend on it."""

COMPARED_AT_ONCE = 1 << 10
"""Prompts whose samples are compared at once, each with each, which bounds the memory."""


@dataclass(frozen=True)
class SelectionRule:
    """The rule by which calibrated rewards become pairs."""

    select: Callable[[Tensor], Selection]
    """Selects the chosen and rejected samples by calibrated rewards [G, n, L]."""
    weights: Tensor
    """[L], those of the combined reward."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Calibrated rewards and the chosen and rejected sets, for prompts with equally many samples."""

    calibrated: np.ndarray
    """float64 [P, N, L] in [0, 1]"""
    combined: np.ndarray
    """float64 [P, N]: the combined reward, whose differences are ΔR"""
    chosen: np.ndarray
    """bool [P, N]"""
    rejected: np.ndarray
    """bool [P, N]"""
    set_aside: np.ndarray
    """bool [P, N]: samples that lack a score"""

    @cached_property
    def used(self) -> np.ndarray:
        """The calibrated rewards of the samples that were compared, float64 [M, L]."""
        rows = self.calibrated.reshape(-1, self.calibrated.shape[-1])
        return np.asarray(rows[~np.isnan(self.combined).ravel()])


def selection_rule(pairs: PairsSection, rewards: Sequence[RewardSection]) -> SelectionRule:
    """The rule that the sections name; `rewards` are the training rewards."""
    if pairs.selection == "labels":
        return SelectionRule(select_frontier, torch.ones(1))
    weights = torch.tensor([section.weight for section in rewards], dtype=torch.float64)
    if pairs.selection == "frontier":
        return SelectionRule(select_frontier, weights)
    if pairs.selection == "sum":
        return SelectionRule(lambda calibrated: select_sum(calibrated, weights), weights)
    # Best against worst by one reward: the target of training is that reward's alone.
    names = [section.name for section in rewards]
    only = names.index(pairs.reward) if pairs.reward else 0
    one_hot = torch.zeros_like(weights).index_fill(0, torch.tensor(only), 1.0)
    return SelectionRule(lambda calibrated: select_best_worst(calibrated[..., only]), one_hot)


def pair_samples(columns: Columns, rule: SelectionRule) -> "tuple[pa.Table, PairStatistics]":
    """The rows of `pairs.parquet`, and their statistics."""
    import pyarrow as pa

    starts = np.cumsum(columns.counts) - columns.counts
    groups = list(_groups(columns.counts))
    statistics, tables = PairStatistics(), []
    with one_thread():
        for group in groups:
            rows = starts[group][:, None] + np.arange(columns.counts[group[0]])
            pool = None if columns.pool is None else columns.pool[group]
            pairs = make_pairs(columns.scores[rows], columns.comparisons, rule, pool)
            statistics.add(pairs)
            tables.append(pairs_table([columns.prompt_ids[prompt] for prompt in group], pairs))
    table = pa.concat_tables(tables)
    order = np.concatenate(groups)
    if (np.diff(order) < 0).any():
        table = table.take(np.argsort(order))
    return table.replace_schema_metadata(pairs_metadata(columns.names, columns.comparisons)), statistics


def make_pairs(
    scores: np.ndarray,
    comparisons: Sequence[Comparison],
    rule: SelectionRule,
    pool: np.ndarray | None = None,
) -> Pairs:
    """Calibrate raw scores [P, N, L] reward by reward, and select among the samples.

    Scores are calibrated against those of `pool` [P, M, L], or if None among themselves. A sample that lacks
    one of its L scores (NaN) is set aside: it is compared with no other sample and is in neither set; one of
    the pool is left out of it. A prompt with fewer than two samples left, or with an empty pool, has no
    calibrated rewards.
    """
    usable = np.isfinite(scores).all(axis=-1)
    counts = usable.sum(axis=-1)
    in_pool = np.zeros((len(scores), 1), dtype=bool) if pool is None else np.isfinite(pool).all(axis=-1)
    sizes = in_pool.sum(axis=-1)
    pairs = Pairs(
        calibrated=np.full(scores.shape, np.nan),
        combined=np.full(usable.shape, np.nan),
        chosen=np.zeros(usable.shape, dtype=bool),
        rejected=np.zeros(usable.shape, dtype=bool),
        set_aside=~usable,
    )
    paired = (counts >= 2) & ((sizes > 0) | (pool is None))
    for same, count, size in _alike(counts, sizes, paired):
        rows = same[:, None]
        columns = _first(usable[same], count)
        raw = torch.from_numpy(scores[rows, columns])
        reference = None if pool is None else torch.from_numpy(pool[rows, _first(in_pool[same], size)])
        rewards = _calibrated(raw, comparisons, reference)
        selection = rule.select(rewards)
        pairs.calibrated[rows, columns] = rewards
        pairs.combined[rows, columns] = combine(rewards, rule.weights)
        pairs.chosen[rows, columns] = selection.chosen
        pairs.rejected[rows, columns] = selection.rejected
    return pairs


def pairs_table(prompt_ids: list[str], pairs: Pairs) -> "pa.Table":
    """The columns of `pairs.parquet`, one row per prompt."""
    import pyarrow as pa

    prompts, samples, rewards = pairs.calibrated.shape
    unused = np.isnan(pairs.combined).ravel()
    inner = pa.ListArray.from_arrays(
        _offsets(np.where(unused, 0, rewards)),
        pairs.used.ravel(),
        mask=pa.array(unused),
    )
    per_prompt = _offsets(np.full(prompts, samples))
    return pa.table(
        {
            "prompt_id": prompt_ids,
            "chosen": _indices(pairs.chosen),
            "rejected": _indices(pairs.rejected),
            "calibrated": pa.ListArray.from_arrays(per_prompt, inner),
            "combined": pa.ListArray.from_arrays(per_prompt, pa.array(pairs.combined.ravel(), mask=unused)),
        }
    )


def pairs_metadata(rewards: Sequence[str], comparisons: Sequence[Comparison]) -> dict[str, str]:
    """The metadata in the schema of `pairs.parquet`: names and comparisons of the rewards, as JSON."""
    described = dict(zip(rewards, map(describe_comparison, comparisons), strict=True))
    return {"rewards": json.dumps(list(rewards)), "comparisons": json.dumps(described)}


class PairStatistics:
    """Counts and means of the pairs of all prompts, from groups of them."""

    def __init__(self, groups: Iterable[Pairs] = ()) -> None:
        self._chosen: list[np.ndarray] = []
        self._rejected: list[np.ndarray] = []
        self._dropped: list[np.ndarray] = []
        self._calibrated: list[np.ndarray] = []
        self._delta_sums: list[np.ndarray] = []
        """By prompt, so that the sum of all does not depend on the groups."""
        self._deltas, self._not_better = 0, 0
        self._set_aside = 0
        for pairs in groups:
            self.add(pairs)

    def add(self, pairs: Pairs) -> None:
        """Count a group; of its large arrays only one is kept, which its table needs too."""
        chosen, rejected = pairs.chosen.sum(axis=1), pairs.rejected.sum(axis=1)
        self._chosen.append(chosen)
        self._rejected.append(rejected)
        self._dropped.append(np.isnan(pairs.combined).all(axis=1))
        deltas = _delta_rewards(pairs)
        self._deltas += len(deltas)
        self._not_better += int((deltas <= 0).sum())
        prompt = np.repeat(np.arange(len(chosen)), chosen * rejected)
        self._delta_sums.append(np.bincount(prompt, weights=deltas, minlength=len(chosen)))
        self._calibrated.append(pairs.used)
        self._set_aside += int(pairs.set_aside.sum())

    @property
    def pairs(self) -> int:
        """The number of prompts with a pair."""
        return sum(int((chosen > 0).sum()) for chosen in self._chosen)

    def summary(self, rewards: Sequence[str]) -> dict[str, Any]:
        """Return counts and means for the manifest of `pairs`; there must be a pair."""
        chosen, rejected, dropped = map(np.concatenate, (self._chosen, self._rejected, self._dropped))
        paired = chosen > 0
        deviations = _deviations(self._calibrated)
        return {
            "prompts": len(chosen),
            "pairs": self.pairs,
            "no_pair": int((~paired & ~dropped).sum()),
            "dropped": int(dropped.sum()),
            "set_aside": self._set_aside,
            "mean_chosen": float(chosen[paired].mean()),
            "mean_rejected": float(rejected[paired].mean()),
            "mean_delta_reward": float(np.concatenate(self._delta_sums).sum()) / self._deltas,
            "share_not_better": self._not_better / self._deltas,
            "calibrated_std": dict(zip(rewards, deviations.tolist(), strict=True)),
        }


def _deviations(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The standard deviation of every column of parts [n, L], which are never joined."""
    count = sum(map(len, parts))
    mean = _column_sums(parts) / count
    return np.sqrt(_column_sums((part - mean) ** 2 for part in parts) / count)


def _column_sums(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Sums [L] over all rows, added in the order in which numpy adds the rows of the joined parts."""
    total = np.zeros((1, 1))
    for part in parts:
        total = np.concatenate([np.broadcast_to(total, (1, part.shape[1])), part]).sum(axis=0)[None]
    return np.asarray(total[0])


def _delta_rewards(pairs: Pairs) -> np.ndarray:
    prompts, samples = pairs.combined.shape
    prompt = np.repeat(np.arange(prompts), samples)
    return delta_rewards(prompt, pairs.combined.ravel(), pairs.chosen.ravel(), pairs.rejected.ravel())


def _groups(counts: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the prompts with equally many samples, no more than `PROMPTS_AT_ONCE` together."""
    for count in np.unique(counts):
        prompts = np.flatnonzero(counts == count)
        for start in range(0, len(prompts), PROMPTS_AT_ONCE):
            yield prompts[start : start + PROMPTS_AT_ONCE]


def _alike(
    counts: np.ndarray, sizes: np.ndarray, paired: np.ndarray
) -> Iterator[tuple[np.ndarray, int, int]]:
    """Yield the prompts with equally many samples and equally large pools, and both numbers, in portions."""
    for count, size in sorted(set(zip(counts[paired].tolist(), sizes[paired].tolist(), strict=True))):
        rows = np.flatnonzero(paired & (counts == count) & (sizes == size))
        for start in range(0, len(rows), COMPARED_AT_ONCE):
            yield rows[start : start + COMPARED_AT_ONCE], count, size


def _first(mask: np.ndarray, count: int) -> np.ndarray:
    """The first `count` columns [G, count] that are True in each row of a mask, in order."""
    return np.argsort(~mask, axis=-1, kind="stable")[:, :count]


def _calibrated(raw: Tensor, comparisons: Sequence[Comparison], pool: Tensor | None) -> Tensor:
    """Scores [G, n, L] calibrated against those of `pool` [G, m, L], or among themselves."""
    columns = [
        calibrate(raw[..., i], comparison, None if pool is None else pool[..., i])
        for i, comparison in enumerate(comparisons)
    ]
    return torch.stack(columns, dim=-1)


def _indices(mask: np.ndarray) -> "pa.ListArray":
    """The sample indices that are True in each row of a mask [P, N]."""
    import pyarrow as pa

    _, samples = np.nonzero(mask)
    return pa.ListArray.from_arrays(_offsets(mask.sum(axis=1)), samples.astype(np.int32))


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
