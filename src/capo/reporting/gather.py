"""Reads the artifacts of a run into the typed material of its report.

Nothing here needs a model: a report is made from what the stages left.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from capo.pairing.pair_table import PairTable
from capo.recipe import Recipe
from capo.reporting.examples import (
    Contrast,
    PairExample,
    Shown,
    contrasts,
    pair_examples,
    read_prompts,
)
from capo.reporting.results_schema import Results
from capo.store import Run


@dataclass(frozen=True)
class Training:
    """What training logged, one mapping a line, and the checkpoint it kept."""

    metrics: tuple[Mapping[str, Any], ...]
    validation: tuple[Mapping[str, Any], ...]
    best: Mapping[str, Any] | None


@dataclass(frozen=True)
class StageTime:
    """What making an artifact took, the last time it was made; memory in bytes."""

    artifact: str
    seconds: float
    peak_memory: int | None
    device: str
    finished: str


@dataclass(frozen=True)
class Material:
    """Everything the page shows, before it is worded and drawn."""

    recipe: Recipe
    results: Results
    contrasts: tuple[Contrast, ...]
    examples: tuple[PairExample, ...]
    raw_scores: Mapping[str, np.ndarray]
    pairs: PairTable
    comparisons: Mapping[str, Mapping[str, Any]]
    """by reward: the comparison model's name and parameter"""
    training: Training
    summaries: Mapping[str, Mapping[str, Any]]
    """by artifact, as each was committed"""
    versions: Mapping[str, str]
    prompts: Mapping[str, Shown]
    timings: tuple[StageTime, ...]


def gather(recipe: Recipe, run: Run) -> Material:
    """Read everything the page needs from the committed artifacts of `run`.

    Raises `WorkspaceError` for an artifact that is damaged or not finished, `ValueError` for an
    evaluation whose results have another form.
    """
    results = Results.model_validate(run.artifact("evaluate").read_json("results.json"))
    prompts = read_prompts(run.artifact("prompts"))
    pairs = PairTable.read(run.artifact("pairs"))
    scores = [f"scores/{reward.name}" for reward in recipe.rewards]
    return Material(
        recipe=recipe,
        results=results,
        contrasts=contrasts(recipe, run, results),
        examples=pair_examples(recipe, run, pairs, prompts),
        raw_scores={reward.name: raw_scores(run, reward.name) for reward in recipe.rewards},
        pairs=pairs,
        comparisons=pairs.comparisons,
        training=_training(run),
        summaries={name: run.artifact(name).summary for name in ("samples", *scores, "train")},
        versions=_versions(run),
        prompts=prompts,
        timings=_timings(run),
    )


def raw_scores(run: Run, reward: str) -> np.ndarray:
    """A reward's scores of all samples, NaN where one is missing."""
    artifact = run.artifact(f"scores/{reward}")
    shards = [name for name in artifact.files() if name.endswith(".parquet")]
    columns = [artifact.read_table(shard, columns=["score"])["score"] for shard in shards]
    return np.concatenate([np.empty(0), *(column.to_numpy() for column in columns)])


def _training(run: Run) -> Training:
    train = run.artifact("train")
    return Training(
        metrics=tuple(train.read_json_lines("metrics.jsonl")),
        validation=tuple(train.read_json_lines("validation.jsonl")) if train.has("validation.jsonl") else (),
        best=train.read_json("best/capo.json") if train.has("best/capo.json") else None,
    )


def _versions(run: Run) -> dict[str, str]:
    manifest = run.artifact("evaluate").manifest()
    return dict(manifest.versions) if manifest else {}


def _timings(run: Run) -> tuple[StageTime, ...]:
    return tuple(
        StageTime(
            artifact=artifact,
            seconds=float(row["seconds"]),
            peak_memory=row.get("peak_rss_bytes"),
            device=row.get("device", ""),
            finished=row.get("finished", ""),
        )
        for artifact, row in run.timings().items()
    )
