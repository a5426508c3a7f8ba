"""What samples are paired by: the scores of the training rewards, or the labels that came with them.

Notation: P prompts, S samples in all, L rewards. Samples that lack a score are NaN.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from capo.images.shard_files import read_samples
from capo.method import Comparison, PowerRatio
from capo.prompts.table import read_prompts
from capo.recipe import Recipe
from capo.rewards import build_comparison, reject_negative
from capo.scoring.score_table import check_missing, count_samples, read_scores, score_vector
from capo.store import Artifact, Run

if TYPE_CHECKING:
    import pyarrow as pa

LABELS = "labels"
"""How messages and tables call what people said of the samples, in the place of a reward's name."""


@dataclass(frozen=True)
class Columns:
    """What the samples of a run are paired by: L rewards, or one column of people's labels.

    P prompts with `counts` samples each, S in all; sorted by prompt, then sample.
    """

    names: list[str]
    comparisons: list[Comparison]
    prompt_ids: list[str]
    counts: np.ndarray
    """int [P]"""
    scores: np.ndarray
    """float64 [S, L]: raw ones, NaN where missing"""
    pool: np.ndarray | None = None
    """float64 [P, M, L]: the base's, which a further round's are calibrated against; NaN where missing"""


def read_columns(recipe: Recipe, run: Run) -> Columns:
    """The scores of all training rewards, or the labels that came with the images.

    Raises as `pair`.
    """
    prompt_ids = [prompt.prompt_id for prompt in read_prompts(run)]
    by_people = recipe.pairs.selection == "labels"
    if by_people:
        # A label is how often people prefer the sample: the power ratio of two is again that share.
        comparisons: list[Comparison] = [PowerRatio()]
        tables = {LABELS: _read_labels(run.artifact("samples"))}
    else:
        comparisons = [build_comparison(section) for section in recipe.training_rewards]
        tables = {s.name: read_scores(run.artifact(f"scores/{s.name}")) for s in recipe.training_rewards}
    if recipe.samples_vary:
        counts = count_samples(next(iter(tables.values())), prompt_ids)
    else:
        counts = np.full(len(prompt_ids), recipe.generate.samples_per_prompt)
    ids, samples = np.repeat(prompt_ids, counts), _arange(counts)
    scores = np.empty((len(ids), len(tables)))
    for column, (comparison, (name, table)) in enumerate(zip(comparisons, tables.items(), strict=True)):
        if not by_people:
            check_missing(name, [table], len(ids), recipe.pairs.max_skipped)
        scores[:, column] = score_vector(table, prompt_ids, counts)
        reject_negative(name, comparison, scores[:, column], ids, samples)
    pool = None if recipe.start is None or by_people else _read_pool(recipe, run, prompt_ids)
    return Columns(list(tables), comparisons, prompt_ids, counts, scores, pool)


def _read_pool(recipe: Recipe, run: Run, prompt_ids: list[str]) -> np.ndarray:
    """The base's scores of each prompt by the training rewards, filled up with NaN."""
    artifact = run.artifact("pool")
    tables = [artifact.read_table(f"{reward.name}.parquet") for reward in recipe.training_rewards]
    counts = count_samples(tables[0], prompt_ids)
    there = np.arange(counts.max()) < counts[:, None]
    pool = np.full((*there.shape, len(tables)), np.nan)
    for column, table in enumerate(tables):
        pool[there, column] = score_vector(table, prompt_ids, counts)
    return pool


def _read_labels(samples: Artifact) -> "pa.Table":
    """prompt_id, sample and, as `score`, the label of every sample."""
    import pyarrow as pa

    names = ["prompt_id", "sample", "label"]
    return pa.concat_tables(read_samples(samples, columns=names)).rename_columns([*names[:2], "score"])


def _arange(counts: np.ndarray) -> np.ndarray:
    """0, 1, ... anew for every prompt."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
