"""The scores that samples are paired by: those of the training rewards, or the labels of existing images.

Notation: P prompts, S samples in total, L rewards. Samples that lack a score are NaN.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from capo.images.shard_files import shard_paths
from capo.method import Comparison, PowerRatio
from capo.prompts.table import read_prompt_ids
from capo.recipe import Recipe, RewardSection
from capo.rewards import build_comparison, reject_negative
from capo.scoring.score_table import check_missing, count_samples, find_gaps, read_scores, score_vector
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
        labels = _read_labels(run.artifact("samples"))
        return _columns([(LABELS, labels)], [PowerRatio()], prompt_ids, samples)
    rewards = recipe.training_rewards
    pool = None if recipe.start is None else _read_pool(run.artifact("pool"), rewards, prompt_ids)
    limit = recipe.pairs.max_skipped
    tables = ((reward.name, _read_table(reward.name, run, limit)) for reward in rewards)
    return _columns(tables, [build_comparison(reward) for reward in rewards], prompt_ids, samples, pool)


def _read_table(reward: str, run: Run, limit: float) -> "pa.Table":
    table = read_scores(run.artifact(f"scores/{reward}"), ["prompt_id", "sample", "score", "error"])
    check_missing(reward, find_gaps(table), len(table), limit)
    return table


def _columns(
    tables: "Iterable[tuple[str, pa.Table]]",
    comparisons: Sequence[Comparison],
    prompt_ids: list[str],
    samples: int | None,
    pool: np.ndarray | None = None,
) -> Columns:
    """Arrange tables of scores as columns; `samples` is the number per prompt, None if it varies."""
    counts = None if samples is None else np.full(len(prompt_ids), samples)
    vectors: dict[str, np.ndarray] = {}
    for name, table in tables:  # only one is in memory at a time
        if counts is None:
            counts = count_samples(table, prompt_ids)
        vectors[name] = score_vector(table, prompt_ids, counts)
    assert counts is not None
    scores = np.stack(list(vectors.values()), axis=-1)
    for name, comparison, column in zip(vectors, comparisons, scores.T, strict=True):
        if (column < 0).any():
            ids, numbers = np.repeat(prompt_ids, counts), _sample_numbers(counts)
            reject_negative(name, comparison, column, ids, numbers)
    return Columns(
        names=list(vectors),
        comparisons=list(comparisons),
        prompt_ids=prompt_ids,
        counts=counts,
        scores=scores,
        pool=pool,
    )


def _read_pool(artifact: Artifact, rewards: Sequence[RewardSection], prompt_ids: list[str]) -> np.ndarray:
    """The base model's scores of every prompt, float64 [P, M, L]; NaN beyond a prompt's last sample."""
    tables = [artifact.read_table(f"{reward.name}.parquet") for reward in rewards]
    counts = count_samples(tables[0], prompt_ids)
    present = np.arange(counts.max()) < counts[:, None]
    pool = np.full((*present.shape, len(tables)), np.nan)
    for column, table in enumerate(tables):
        pool[present, column] = score_vector(table, prompt_ids, counts)
    return pool


def _read_labels(samples: Artifact) -> "pa.Table":
    """Columns prompt_id, sample and `score`, the label of every sample."""
    import pyarrow as pa

    names = ["prompt_id", "sample", "label"]
    tables = [samples.read_columns(path, names) for path in shard_paths(samples)]
    return pa.concat_tables(tables).rename_columns([*names[:2], "score"])


def _sample_numbers(counts: np.ndarray) -> np.ndarray:
    """0, 1, ..., starting over for every prompt, int [S]."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
