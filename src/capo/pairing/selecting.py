"""Calibrated rewards, and the chosen and rejected samples of every prompt.

Notation: P prompts, N samples a prompt, L training rewards. Samples that lack a score are NaN
in every array here, and null in the file.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from capo.method import Comparison, Selection, calibrate, select_best_worst, select_frontier, select_sum
from capo.method.selection import combine
from capo.pairing.columns import Columns
from capo.recipe import Recipe
from capo.rewards import describe_comparison

if TYPE_CHECKING:
    import pyarrow as pa

PROMPTS_AT_ONCE = 4096
"""Bounds the memory of the differences between all chosen and rejected samples."""


@dataclass(frozen=True)
class Pairs:
    """What is known of every sample once the rewards are calibrated."""

    calibrated: np.ndarray
    """float64 [P, N, L] in [0, 1]"""
    combined: np.ndarray
    """float64 [P, N]: what the differences of a pair are taken of"""
    chosen: np.ndarray
    """bool [P, N]"""
    rejected: np.ndarray
    """bool [P, N]"""
    set_aside: np.ndarray
    """bool [P, N]: samples that lack a score"""


def pair_samples(
    columns: Columns, select: Callable[[Tensor], Selection], weights: Tensor
) -> "tuple[pa.Table, list[Pairs]]":
    """The rows of `pairs.parquet`, and the same in arrays, prompts with equally many samples together."""
    import pyarrow as pa

    starts = np.cumsum(columns.counts) - columns.counts
    groups = [np.flatnonzero(columns.counts == count) for count in np.unique(columns.counts)]
    found, tables = [], []
    for group in groups:
        places = starts[group][:, None] + np.arange(columns.counts[group[0]])
        pool = None if columns.pool is None else columns.pool[group]
        found.append(make_pairs(columns.scores[places], columns.comparisons, select, weights, pool))
        tables.append(pairs_table([columns.prompt_ids[row] for row in group], found[-1]))
    table = pa.concat_tables(tables)
    if len(groups) > 1:
        table = table.take(np.argsort(np.concatenate(groups)))
    described = zip(columns.names, map(describe_comparison, columns.comparisons), strict=True)
    metadata = {"rewards": json.dumps(columns.names), "comparisons": json.dumps(dict(described))}
    return table.replace_schema_metadata(metadata), found


def make_pairs(
    scores: np.ndarray,
    comparisons: Sequence[Comparison],
    select: Callable[[Tensor], Selection],
    weights: Tensor,
    pool: np.ndarray | None = None,
) -> Pairs:
    """Calibrate raw scores [P, N, L] reward by reward and select among the samples.

    They are calibrated against the scores of `pool` [P, M, L], or among themselves when None. A sample
    without all L scores (NaN) is set aside: it meets no other sample and is in neither set, and one of
    the pool is met by none. A prompt with fewer than two left, or none in its pool, has no calibrated
    rewards. `select` gets calibrated rewards [G, n, L]; `weights` [L] are those of the combined reward.
    """
    usable = np.isfinite(scores).all(axis=-1)
    counts = usable.sum(axis=-1)
    met = np.zeros((len(scores), 1), dtype=bool) if pool is None else np.isfinite(pool).all(axis=-1)
    sizes = met.sum(axis=-1)
    pairs = Pairs(
        calibrated=np.full(scores.shape, np.nan),
        combined=np.full(usable.shape, np.nan),
        chosen=np.zeros(usable.shape, dtype=bool),
        rejected=np.zeros(usable.shape, dtype=bool),
        set_aside=~usable,
    )
    paired = (counts >= 2) & ((sizes > 0) | (pool is None))
    for count, size in np.unique(np.stack([counts, sizes])[:, paired], axis=1).T:
        rows = np.flatnonzero(paired & (counts == count) & (sizes == size))[:, None]
        columns = _first(usable[rows[:, 0]], count)
        raw = torch.from_numpy(scores[rows, columns])
        reference = None if pool is None else torch.from_numpy(pool[rows, _first(met[rows[:, 0]], size)])
        rewards = _calibrated(raw, comparisons, reference)
        selection = select(rewards)
        pairs.calibrated[rows, columns] = rewards
        pairs.combined[rows, columns] = combine(rewards, weights)
        pairs.chosen[rows, columns] = selection.chosen
        pairs.rejected[rows, columns] = selection.rejected
    return pairs


def _first(there: np.ndarray, count: int) -> np.ndarray:
    """The first `count` places [G, count] that are set in each row of a mask, in order."""
    return np.argsort(~there, axis=-1, kind="stable")[:, :count]


def _calibrated(raw: Tensor, comparisons: Sequence[Comparison], pool: Tensor | None) -> Tensor:
    """Scores [G, n, L] calibrated against those of `pool` [G, m, L], or among themselves."""
    columns = [
        calibrate(raw[..., i], comparison, None if pool is None else pool[..., i])
        for i, comparison in enumerate(comparisons)
    ]
    return torch.stack(columns, dim=-1)


def choice(recipe: Recipe) -> tuple[Callable[[Tensor], Selection], Tensor]:
    """The selection the recipe names, and the weights of the combined reward."""
    sections, pairs = recipe.training_rewards, recipe.pairs
    if pairs.selection == "labels":
        return select_frontier, torch.ones(1)
    weights = torch.tensor([section.weight for section in sections], dtype=torch.float64)
    if pairs.selection == "frontier":
        return select_frontier, weights
    if pairs.selection == "sum":
        return lambda rewards: select_sum(rewards, weights), weights
    # Best against worst of one reward: the target of training is that reward's alone.
    names = [section.name for section in sections]
    only = names.index(pairs.reward) if pairs.reward else 0
    weights = torch.zeros_like(weights).index_fill(0, torch.tensor(only), 1.0)
    return lambda rewards: select_best_worst(rewards[..., only]), weights


def pairs_table(prompt_ids: list[str], pairs: Pairs) -> "pa.Table":
    """The columns of `pairs.parquet`, a row a prompt."""
    import pyarrow as pa

    prompts, samples, rewards = pairs.calibrated.shape
    unused = np.isnan(pairs.combined).ravel()
    inner = pa.ListArray.from_arrays(
        _offsets(np.where(unused, 0, rewards)),
        pairs.calibrated.reshape(-1, rewards)[~unused].ravel(),
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


def _indices(mask: np.ndarray) -> "pa.ListArray":
    """The sample indices set in each row of a mask [P, N]."""
    import pyarrow as pa

    _, samples = np.nonzero(mask)
    return pa.ListArray.from_arrays(_offsets(mask.sum(axis=1)), samples.astype(np.int32))


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def pairs_summary(groups: Sequence[Pairs], names: Sequence[str]) -> dict[str, object]:
    """What the manifest says of the pairs."""
    chosen = np.concatenate([pairs.chosen.sum(axis=1) for pairs in groups])
    rejected = np.concatenate([pairs.rejected.sum(axis=1) for pairs in groups])
    dropped = np.concatenate([np.isnan(pairs.combined).all(axis=1) for pairs in groups])
    differences = np.concatenate([_differences(pairs) for pairs in groups])
    calibrated = np.concatenate([pairs.calibrated.reshape(-1, len(names)) for pairs in groups])
    paired = chosen > 0
    return {
        "prompts": len(chosen),
        "pairs": int(paired.sum()),
        "no_pair": int((~paired & ~dropped).sum()),
        "dropped": int(dropped.sum()),
        "set_aside": sum(int(pairs.set_aside.sum()) for pairs in groups),
        "mean_chosen": float(chosen[paired].mean()),
        "mean_rejected": float(rejected[paired].mean()),
        "mean_delta_reward": float(differences.mean()),
        "share_not_better": float((differences <= 0).mean()),
        "calibrated_std": dict(zip(names, np.nanstd(calibrated, axis=0).tolist(), strict=True)),
    }


def _differences(pairs: Pairs) -> np.ndarray:
    """ΔR of every chosen with every rejected sample of its prompt, [n]."""
    parts = []
    for start in range(0, len(pairs.combined), PROMPTS_AT_ONCE):
        part = slice(start, start + PROMPTS_AT_ONCE)
        reward = pairs.combined[part]
        both = pairs.chosen[part][:, :, None] & pairs.rejected[part][:, None, :]
        parts.append((reward[:, :, None] - reward[:, None, :])[both])
    return np.concatenate(parts)
