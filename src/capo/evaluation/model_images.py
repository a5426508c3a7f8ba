"""The images of the models in an evaluation, their scores, and the judgments on them.

images/MODEL/shard-00000.parquet    as samples are stored, without latents
scores/MODEL/REWARD.parquet         one row per image
judgements.parquet                  one row per image; only with a judge
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from capo.evaluation.candidate_images import CandidateImages, make_candidate_images
from capo.evaluation.candidates import Candidate
from capo.prompts import Prompt
from capo.sampling.former_images import FORMER
from capo.scoring.image_sets import ImageSet, score_image_sets
from capo.scoring.judge_images import judge_images
from capo.scoring.judging import check_size
from capo.store import Artifact
from capo.store.step import Job, make_all

IMAGES = "images"
JUDGMENTS = "judgements.parquet"
JUDGED_SHARDS = "judgements"
"""The folder with the judgments on shards, until they are joined."""


@dataclass(frozen=True)
class EvaluatedModel:
    """A model of an evaluation."""

    name: str
    """Base, tuned, or null."""
    seed_key: str
    """The key that its image seeds are derived from; models with the same key share their noise."""


BASE = EvaluatedModel("base", "evaluate")
NULL = EvaluatedModel("null", "evaluate-null")
TUNED = EvaluatedModel("tuned", "evaluate")


def measure(
    job: Job, prompts: Sequence[Prompt], models: Sequence[EvaluatedModel], candidate: Candidate
) -> None:
    """Fill the job's artifact with images of `models`, all made by `candidate`, their scores and judgments.

    Images and scores that exist are kept, so interrupted work resumes shard by shard.
    """
    sets = own_sets(job, prompts, models)
    pieces = (
        partial(_make_images, job, prompts, models, candidate),
        partial(_score, job, prompts, sets),
        partial(_judge, job, prompts, sets),
    )
    make_all(pieces)


def own_sets(job: Job, prompts: Sequence[Prompt], models: Sequence[EvaluatedModel]) -> dict[str, ImageSet]:
    """The images of `models` in the job's artifact, by model, including those that are not made yet."""
    shards = math.ceil(len(prompts) / job.recipe.generate.shard_prompts)
    return {model.name: image_set(job.artifact, model.name, shards) for model in models}


def image_set(artifact: Artifact, model: str, shards: int | None = None) -> ImageSet:
    """A model's images and scores in `artifact`; `shards` is `ImageSet.count`."""
    return ImageSet(artifact, f"{IMAGES}/{model}", f"scores/{model}", shards)


def image_sets(*artifacts: Artifact) -> dict[str, ImageSet]:
    """The images of all models in `artifacts`, by model."""
    return {
        path.split("/")[1]: image_set(artifact, path.split("/")[1])
        for artifact in artifacts
        for path in artifact.files()
        if path.startswith(f"{IMAGES}/")
    }


def read_judgments(artifact: Artifact, samples: int) -> Mapping[str, np.ndarray]:
    """The judge's verdict on every image, bool [P, K] by model; empty without a judge."""
    import pyarrow.compute as pc

    if not artifact.has(JUDGMENTS):
        return {}
    table = artifact.read_table(JUDGMENTS)
    return {
        model: table.filter(pc.equal(table["model"], model))["correct"].to_numpy().reshape(-1, samples)
        for model in pc.unique(table["model"]).to_pylist()
    }


def _make_images(
    job: Job, prompts: Sequence[Prompt], models: Sequence[EvaluatedModel], candidate: Candidate
) -> None:
    section = job.recipe.evaluate
    wanted = CandidateImages(
        purpose="evaluate",
        field="evaluate.samples_per_prompt",
        prompts=prompts,
        samples=section.samples_per_prompt,
        folders={image_set(job.artifact, model.name).images: model.seed_key for model in models},
        title=f"images of {' and '.join(model.name for model in models)}",
        check=partial(check_size, section.judge),
    )
    make_candidate_images(job, wanted, candidate)
    job.artifact.remove(FORMER)


def _score(job: Job, prompts: Sequence[Prompt], sets: Mapping[str, ImageSet]) -> None:
    """Write the scores of all rewards."""
    recipe = job.recipe
    score_image_sets(job.executor, list(sets.values()), recipe.rewards, prompts, recipe.engine, "evaluate")


def _judge(job: Job, prompts: Sequence[Prompt], sets: Mapping[str, ImageSet]) -> None:
    """Write one row per image: model, prompt_id, sample, and whether it is correct."""
    import pyarrow as pa

    judge, artifact = job.recipe.evaluate.judge, job.artifact
    if judge is None:
        return
    if artifact.has(JUDGMENTS):
        if artifact.has(JUDGED_SHARDS):  # an interruption left some
            artifact.remove(JUDGED_SHARDS)
        return
    models = [model for model, images in sets.items() for _ in images.shards]
    shards = [shard for images in sets.values() for shard in images.shards]
    judged = judge_images(job.executor, judge, prompts, shards, (artifact, JUDGED_SHARDS), "judge")
    tables = [
        table.add_column(0, "model", [[model] * len(table)])
        for model, table in zip(models, judged, strict=True)
    ]
    artifact.write_table(JUDGMENTS, pa.concat_tables(tables))
    artifact.remove(JUDGED_SHARDS)
