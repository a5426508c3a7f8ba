"""The pair stage: calibrated rewards, and the chosen and rejected samples of every prompt.

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
from capo.recipe import Recipe
from capo.rewards import RewardError, build_comparison, describe_comparison, refuse_negative
from capo.stages.prompts import read_prompts
from capo.stages.score import check_missing, read_scores
from capo.workspace import Artefact, Run, WorkspaceError

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


def pair(recipe: Recipe, run: Run, artefact: Artefact) -> None:
    """Write `pairs.parquet`, a row a prompt, from the scores of all training rewards.

    Raises `RewardError` for a reward with too many missing scores, with scores its comparison
    cannot take, or without a comparison.
    """
    sections = recipe.training_rewards
    comparisons = [build_comparison(section) for section in sections]
    prompt_ids = [prompt.prompt_id for prompt in read_prompts(run)]
    samples = recipe.generate.samples_per_prompt
    scores = np.empty((len(prompt_ids), samples, len(sections)))
    for column, (section, comparison) in enumerate(zip(sections, comparisons, strict=True)):
        table = read_scores(run.artefact(f"scores/{section.name}"))
        check_missing(section.name, [table], len(prompt_ids) * samples, recipe.pairs.max_skipped)
        raw = score_matrix(table, prompt_ids, samples)
        where = np.indices(raw.shape).reshape(2, -1)
        ids = np.asarray(prompt_ids)[where[0]]
        refuse_negative(section.name, comparison, raw.ravel(), ids, where[1])
        scores[:, :, column] = raw
    found = make_pairs(scores, comparisons, *choice(recipe))
    if not found.chosen.any():
        raise RewardError(
            f"no prompt has a pair: in each of {len(prompt_ids)} no sample is better than another by "
            f"pairs.selection = {recipe.pairs.selection} of {', '.join(s.name for s in sections)}"
        )
    metadata = {
        "rewards": json.dumps([section.name for section in sections]),
        "comparisons": json.dumps(
            {s.name: describe_comparison(c) for s, c in zip(sections, comparisons, strict=True)}
        ),
    }
    artefact.write_table("pairs.parquet", _table(prompt_ids, found).replace_schema_metadata(metadata))
    artefact.commit(_summary(found, [section.name for section in sections]))


def make_pairs(
    scores: np.ndarray,
    comparisons: Sequence[Comparison],
    select: Callable[[Tensor], Selection],
    weights: Tensor,
) -> Pairs:
    """Calibrate raw scores [P, N, L] reward by reward and select among the samples.

    A sample without all L scores (NaN) is set aside: it meets no other sample and is in neither
    set. A prompt with fewer than two left has no calibrated rewards. `select` gets calibrated
    rewards [G, n, L]; `weights` [L] are those of the combined reward.
    """
    usable = np.isfinite(scores).all(axis=-1)
    counts = usable.sum(axis=-1)
    pairs = Pairs(
        calibrated=np.full(scores.shape, np.nan),
        combined=np.full(usable.shape, np.nan),
        chosen=np.zeros(usable.shape, dtype=bool),
        rejected=np.zeros(usable.shape, dtype=bool),
        set_aside=~usable,
    )
    for count in np.unique(counts[counts >= 2]):
        rows = np.flatnonzero(counts == count)[:, None]
        # The places of the usable samples, in order.
        columns = np.argsort(~usable[rows[:, 0]], axis=-1, kind="stable")[:, :count]
        raw = torch.from_numpy(scores[rows, columns])
        rewards = torch.stack(
            [calibrate(raw[..., i], comparison) for i, comparison in enumerate(comparisons)], dim=-1
        )
        selection = select(rewards)
        pairs.calibrated[rows, columns] = rewards
        pairs.combined[rows, columns] = combine(rewards, weights)
        pairs.chosen[rows, columns] = selection.chosen
        pairs.rejected[rows, columns] = selection.rejected
    return pairs


def score_matrix(table: "pa.Table", prompt_ids: list[str], samples: int) -> np.ndarray:
    """Scores as float64 [P, samples], NaN where missing, in the order of `prompt_ids`.

    Raises `WorkspaceError` unless the table has every sample of every prompt once.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    row = pc.index_in(table["prompt_id"], value_set=pa.array(prompt_ids)).to_numpy()
    column = table["sample"].to_numpy()
    known = np.isfinite(row.astype(np.float64)) & (column >= 0) & (column < samples)
    place = row[known].astype(np.int64) * samples + column[known]
    expected = len(prompt_ids) * samples
    if not known.all() or len(np.unique(place)) != len(place) or len(place) != expected:
        raise WorkspaceError(
            f"the scores are not those of {len(prompt_ids)} prompts with {samples} samples each; "
            "run the score stage again with --force"
        )
    matrix = np.empty(expected)
    matrix[place] = table["score"].to_numpy().astype(np.float64)
    return matrix.reshape(len(prompt_ids), samples)


def choice(recipe: Recipe) -> tuple[Callable[[Tensor], Selection], Tensor]:
    """The selection the recipe names, and the weights of the combined reward."""
    sections, pairs = recipe.training_rewards, recipe.pairs
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


def _table(prompt_ids: list[str], pairs: Pairs) -> "pa.Table":
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


def _summary(pairs: Pairs, names: Sequence[str]) -> dict[str, object]:
    dropped = np.isnan(pairs.combined).all(axis=1)
    paired = pairs.chosen.any(axis=1)
    differences = _differences(pairs)
    spread = np.nanstd(pairs.calibrated, axis=(0, 1))
    return {
        "prompts": len(pairs.chosen),
        "pairs": int(paired.sum()),
        "no_pair": int((~paired & ~dropped).sum()),
        "dropped": int(dropped.sum()),
        "set_aside": int(pairs.set_aside.sum()),
        "mean_chosen": float(pairs.chosen[paired].sum(axis=1).mean()),
        "mean_rejected": float(pairs.rejected[paired].sum(axis=1).mean()),
        "mean_delta_reward": float(differences.mean()),
        "share_not_better": float((differences <= 0).mean()),
        "calibrated_std": {name: float(value) for name, value in zip(names, spread, strict=True)},
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
