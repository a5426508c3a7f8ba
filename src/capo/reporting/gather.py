"""Read the artifacts of a run into the typed material of its report. No model is loaded."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from capo.pairing.pair_table import PairTable
from capo.recipe import Recipe
from capo.reporting.benchmark_schema import BenchmarkResults
from capo.reporting.examples import (
    PairExample,
    ShownPrompt,
    SideBySide,
    pair_examples,
    read_shown_prompts,
    side_by_side,
)
from capo.reporting.progress_images import Progress, progress_images
from capo.reporting.results_schema import Results
from capo.store import Run


@dataclass(frozen=True)
class TrainingLog:
    """The logs of training, one mapping per line, and the record of the best checkpoint."""

    metrics: tuple[Mapping[str, Any], ...]
    validation: tuple[Mapping[str, Any], ...]
    best: Mapping[str, Any] | None


@dataclass(frozen=True)
class StageTime:
    """The cost of an artifact when it was last made; memory in bytes."""

    artifact: str
    seconds: float
    peak_memory: int | None
    device: str
    finished: str


@dataclass(frozen=True)
class Material:
    """Everything the page shows, as data."""

    recipe: Recipe
    place: str
    """the run directory as seen from the current folder"""
    results: Results
    side_by_side: tuple[SideBySide, ...]
    examples: tuple[PairExample, ...]
    raw_scores: Mapping[str, np.ndarray]
    pairs: PairTable
    comparisons: Mapping[str, Mapping[str, Any]]
    """by reward: name and parameter of the comparison model"""
    training: TrainingLog
    summaries: Mapping[str, Mapping[str, Any]]
    """by artifact, as committed"""
    versions: Mapping[str, str]
    prompts: Mapping[str, ShownPrompt]
    timings: tuple[StageTime, ...]
    progress: Progress | None
    evaluated: Mapping[str, tuple[np.ndarray, np.ndarray]]
    """by reward: scores of all evaluation images of the base and of the tuned model, NaN for missing ones"""
    benchmarks: tuple[BenchmarkResults, ...] = ()


def gather(recipe: Recipe, run: Run) -> Material:
    """Read everything the page needs from the committed artifacts of `run`.

    Raises `WorkspaceError` if an artifact is damaged or not committed, and `ValueError` if the results of
    the evaluation do not match the schema.
    """
    results = Results.model_validate(run.artifact("evaluate").read_json("results.json"))
    prompts = read_shown_prompts(run.artifact("prompts"))
    pairs = PairTable.read(run.artifact("pairs"))
    scores = [f"scores/{reward.name}" for reward in recipe.rewards]
    return Material(
        recipe=recipe,
        place=Path(os.path.relpath(run.path)).as_posix(),
        results=results,
        side_by_side=side_by_side(recipe, run, results),
        examples=pair_examples(recipe, run, pairs, prompts),
        raw_scores={reward.name: raw_scores(run, reward.name) for reward in recipe.rewards},
        pairs=pairs,
        comparisons=pairs.comparisons,
        training=_training(run),
        summaries={name: run.artifact(name).summary for name in ("samples", *scores, "train")}
        | {"validation": run.artifact("validation").summary if run.artifact("validation").done else {}},
        versions=_versions(run),
        prompts=prompts,
        timings=_timings(run),
        progress=progress_images(recipe, run),
        evaluated={reward.name: _evaluated(run, reward.name) for reward in results.rewards},
        benchmarks=tuple(_benchmark(run, section.name) for section in recipe.benchmarks),
    )


def raw_scores(run: Run, reward: str) -> np.ndarray:
    """Return a reward's scores of all samples, with NaN for missing ones."""
    artifact = run.artifact(f"scores/{reward}")
    shards = [name for name in artifact.files() if name.endswith(".parquet")]
    columns = [artifact.read_table(shard, columns=["score"])["score"] for shard in shards]
    return np.concatenate([np.empty(0), *(column.to_numpy() for column in columns)])


def _evaluated(run: Run, reward: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of all evaluation images of the base and of the tuned model."""
    base, tuned = (
        run.artifact(artifact).read_table(f"scores/{model}/{reward}.parquet", columns=["score"])["score"]
        for artifact, model in (("baseline", "base"), ("evaluate", "tuned"))
    )
    return base.to_numpy(), tuned.to_numpy()


def _benchmark(run: Run, name: str) -> BenchmarkResults:
    values = run.artifact(f"benchmarks/{name}/results").read_json("results.json")
    return BenchmarkResults.model_validate(values)


def _training(run: Run) -> TrainingLog:
    train = run.artifact("train")
    return TrainingLog(
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
