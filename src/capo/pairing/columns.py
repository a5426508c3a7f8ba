"""The scores that samples are paired by: those of the training rewards, or the labels of existing images.

Notation: P prompts, S samples in total, L rewards. Samples that lack a score are NaN.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from capo.images.shard_files import shard_paths
from capo.method import Comparison, PowerRatio
from capo.prompts.table import read_prompt_ids
from capo.recipe import Recipe, RewardSection
from capo.rewards import build_comparison, reject_negative
from capo.scoring.score_table import (
    Gaps,
    check_missing,
    count_samples,
    filling,
    find_gaps,
    score_vector,
    stream_scores,
)
from capo.store import Artifact, Run

if TYPE_CHECKING:
    import pyarrow as pa

LABELS = "labels"
"""The name of people's labels in messages and tables, where rewards have theirs."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The scores of a run's samples, one column per training reward, or one column of labels.

    Rows are sorted by prompt, then by sample.
    """

    names: list[str]
    comparisons: list[Comparison]
    prompt_ids: list[str]
    counts: np.ndarray
    """int [P], the number of samples of every prompt; they add up to S"""
    scores: np.ndarray
    """float64 [S, L]: raw scores"""
    pool: np.ndarray | None = None
    """float64 [P, M, L]: the base model's scores, against which those of a further round are calibrated"""


def read_columns(recipe: Recipe, run: Run) -> Columns:
    """Read the scores of all training rewards, or the labels that came with the images.

    Raises `RewardError` for a reward with too many missing scores, without a comparison, or with scores that
    its comparison cannot take.
    """
    prompt_ids = read_prompt_ids(run)
    samples = None if recipe.samples_vary else recipe.generate.samples_per_prompt
    if recipe.pairs.selection == "labels":
        # A label is how often people prefer the sample; the power ratio of two labels is that share again.
        labels = partial(_read_labels, run.artifact("samples"))
        return _columns({LABELS: labels}, [PowerRatio()], prompt_ids, samples)
    rewards = recipe.training_rewards
    pool = None if recipe.start is None else _read_pool(run.artifact("pool"), rewards, prompt_ids)
    limit = recipe.pairs.max_skipped
    readers = {reward.name: partial(_read_scores, reward.name, run, limit) for reward in rewards}
    return _columns(readers, [build_comparison(reward) for reward in rewards], prompt_ids, samples, pool)


def _read_scores(reward: str, run: Run, limit: float) -> "Iterator[pa.Table]":
    """Yield the scores of a reward; raises `RewardError` at the end if too many are missing."""
    gaps, total = Gaps(0, ()), 0
    for table in stream_scores(run.artifact(f"scores/{reward}"), ["prompt_id", "sample", "score", "error"]):
        gaps, total = gaps + find_gaps(table), total + len(table)
        yield table
    check_missing(reward, gaps, total, limit)


def _columns(
    readers: "Mapping[str, Callable[[], Iterable[pa.Table]]]",
    comparisons: Sequence[Comparison],
    prompt_ids: list[str],
    samples: int | None,
    pool: np.ndarray | None = None,
) -> Columns:
    """Arrange scores as columns; `readers` yield their tables, `samples` is the number per prompt.

    It is None if it varies.
    """
    if samples is None:
        counts = count_samples(next(iter(readers.values()))(), prompt_ids)
    else:
        counts = np.full(len(prompt_ids), samples)
    scores = np.empty((int(counts.sum()), len(readers)))
    for column, read in zip(scores.T, readers.values(), strict=True):
        with filling(column, prompt_ids, counts) as add:
            for table in read():
                add(table)
    for name, comparison, column in zip(readers, comparisons, scores.T, strict=True):
        if (column < 0).any():
            row = int((column < 0).argmax())
            ends = np.cumsum(counts)
            prompt = int(np.searchsorted(ends, row, side="right"))
            sample = row - int(ends[prompt] - counts[prompt])
            reject_negative(name, comparison, column[row : row + 1], [prompt_ids[prompt]], [sample])
    return Columns(
        names=list(readers),
        comparisons=list(comparisons),
        prompt_ids=prompt_ids,
        counts=counts,
        scores=scores,
        pool=pool,
    )


def _read_pool(artifact: Artifact, rewards: Sequence[RewardSection], prompt_ids: list[str]) -> np.ndarray:
    """The base model's scores of every prompt, float64 [P, M, L]; NaN beyond a prompt's last sample."""
    tables = [artifact.read_table(f"{reward.name}.parquet") for reward in rewards]
    counts = count_samples(tables[:1], prompt_ids)
    present = np.arange(counts.max()) < counts[:, None]
    pool = np.full((*present.shape, len(tables)), np.nan)
    for column, table in enumerate(tables):
        pool[present, column] = score_vector(table, prompt_ids, counts)
    return pool


def _read_labels(samples: Artifact) -> "Iterator[pa.Table]":
    """Yield columns prompt_id, sample and `score`, the label of every sample."""
    names = ["prompt_id", "sample", "label"]
    for path in shard_paths(samples):
        yield samples.read_columns(path, names).rename_columns([*names[:2], "score"])
