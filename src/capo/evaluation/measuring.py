"""What evaluation knows of a model: its images of the prompts, their scores, and the judge's verdicts.

images/MODEL/shard-00000.parquet    as samples, without latents
scores/MODEL/REWARD.parquet         a row an image
judgements.parquet                  a row an image; only with a judge
"""

import gc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from capo.engine.device import select_device
from capo.engine.progress import progress
from capo.evaluation.candidates import Candidate
from capo.images.evaluation_import import EvaluationImages, import_evaluation_images
from capo.images.shard_files import shard_path
from capo.pairing.columns import score_matrix
from capo.prompts import Prompt
from capo.recipe import ImagesSection, Recipe, RewardSection
from capo.sampling.sampler import ImageRequest, sample_images
from capo.scoring.judging import Judge, check_size, load_judge, verdicts
from capo.scoring.rater import Rater
from capo.scoring.score_table import decode_rows, finished, score_rows
from capo.store import Artifact

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image

KEPT_BYTES = 1 << 30
"""Decoded images that are kept for the next reward; more are decoded again."""

PARTS = "parts"
"""Scores of single shards, until those of all models are whole."""

JUDGEMENTS = "judgements.parquet"


@dataclass(frozen=True)
class Model:
    """One of the models of an evaluation: its name, and the key of its noise."""

    name: str
    seed_key: str


def measure(
    recipe: Recipe,
    artifact: Artifact,
    prompts: Sequence[Prompt],
    models: Sequence[Model],
    candidate: Candidate,
) -> None:
    """Fill `artifact` with images, scores and judgements of `models`, all made by `candidate`.

    Each step goes on where it stopped, shard by shard.
    """
    _make_images(recipe, artifact, prompts, models, candidate)
    gc.collect()  # the rewards may need the device's memory
    images = [Images(artifact, model.name) for model in models]
    for reward in recipe.rewards:
        _score(recipe, artifact, reward, prompts, images)
    artifact.remove(PARTS)
    if recipe.evaluate.judge is not None and not artifact.has(JUDGEMENTS):
        artifact.write_table(JUDGEMENTS, _judgments(load_judge(recipe.evaluate.judge), prompts, images))


def read_scores(
    artifact: Artifact, model: str, reward: str, prompt_ids: Sequence[str], samples: int
) -> np.ndarray:
    """One reward's scores of a model, float64 [P, K], NaN where one is missing."""
    return score_matrix(artifact.read_table(_scores_path(model, reward)), list(prompt_ids), samples)


def read_judgements(artifact: Artifact, samples: int) -> Mapping[str, np.ndarray]:
    """Whether the judge accepts each image, bool [P, K] by model; empty without a judge."""
    import pyarrow.compute as pc

    if not artifact.has(JUDGEMENTS):
        return {}
    table = artifact.read_table(JUDGEMENTS)
    return {
        model: table.filter(pc.equal(table["model"], model))["correct"].to_numpy().reshape(-1, samples)
        for model in pc.unique(table["model"]).to_pylist()
    }


def measured(artifact: Artifact) -> list[str]:
    """The models whose images are in `artifact`."""
    found = (name.split("/")[1] for name in artifact.files() if name.startswith(_images_folder("")))
    return list(dict.fromkeys(found))


class Images:
    """One model's images, shard by shard; small ones are decoded once and kept."""

    def __init__(self, artifact: Artifact, model: str) -> None:
        self.model = model
        self._artifact = artifact
        self._folder = f"{_images_folder(model)}/"
        self._kept: dict[str, list[Image.Image]] = {}
        self._bytes = 0

    @property
    def shards(self) -> list[str]:
        names = (name for name in self._artifact.files() if name.startswith(self._folder))
        return [name.removeprefix(self._folder) for name in names if name.endswith(".parquet")]

    def read(self, shard: str) -> "tuple[pa.Table, list[Image.Image]]":
        """The shard's rows (prompt_id, sample, image) and its images."""
        rows = self._artifact.read_table(self._folder + shard, ["prompt_id", "sample", "image"])
        if shard in self._kept:
            return rows, self._kept[shard]
        images = decode_rows(rows)
        size = sum(image.width * image.height * len(image.getbands()) for image in images)
        if self._bytes + size <= KEPT_BYTES:
            self._kept[shard] = images
            self._bytes += size
        return rows, images


def _make_images(
    recipe: Recipe,
    artifact: Artifact,
    prompts: Sequence[Prompt],
    models: Sequence[Model],
    candidate: Candidate,
) -> None:
    shards = range(math.ceil(len(prompts) / recipe.generate.shard_prompts))
    if all(artifact.has(shard_path(_images_folder(m.name), shard)) for m in models for shard in shards):
        return
    if isinstance(candidate.source, ImagesSection):
        for model in models:
            samples, check = recipe.evaluate.samples_per_prompt, partial(check_size, recipe.evaluate.judge)
            given = EvaluationImages(candidate.source, samples, recipe.generate.shard_prompts, check)
            import_evaluation_images(artifact, _images_folder(model.name), prompts, given)
        return
    family = candidate.source(recipe)
    check_size(recipe.evaluate.judge, family.image_size(recipe.generate), "this model makes")
    for model in models:
        key = (model.seed_key, recipe.seed)
        description = f"evaluate: {model.name} images"
        samples = recipe.evaluate.samples_per_prompt
        request = ImageRequest(prompts, samples, recipe.generate, key, description)
        sample_images(family, request, artifact, _images_folder(model.name))


def _score(
    recipe: Recipe,
    artifact: Artifact,
    reward: RewardSection,
    prompts: Sequence[Prompt],
    images: Sequence[Images],
) -> None:
    import pyarrow as pa

    texts = {prompt.prompt_id: prompt.text for prompt in prompts}
    total = len(images) * len(texts) * recipe.evaluate.samples_per_prompt
    rater = Rater(reward, select_device(recipe.engine))
    with progress(f"evaluate: {reward.name}", total, "images") as bar:
        for each in images:
            whole = _scores_path(each.model, reward.name)
            if artifact.has(whole):
                bar.advance(len(artifact.read_table(whole, ["sample"])), resumed=True)
                continue
            shards = []
            for shard in each.shards:
                part = f"{PARTS}/{each.model}/{reward.name}/{shard}"
                rows = finished(artifact, part)
                resumed = rows is not None
                if rows is None:
                    samples, decoded = each.read(shard)
                    rows = score_rows(rater, samples, texts, decoded)
                    artifact.write_table(part, rows)
                shards.append(rows)
                bar.advance(len(rows), resumed=resumed)
            artifact.write_table(whole, pa.concat_tables(shards).combine_chunks())


def _judgments(judge: Judge, prompts: Sequence[Prompt], images: Sequence[Images]) -> "pa.Table":
    """A row an image: model, prompt_id, sample, and whether it is correct."""
    import pyarrow as pa

    tables = []
    for each in images:
        with progress(f"judge: {each.model} images", len(each.shards), "shards") as bar:
            for shard in each.shards:
                rows, decoded = each.read(shard)
                correct = verdicts(judge, prompts, rows, decoded)
                columns = {"model": [each.model] * len(rows), "prompt_id": rows["prompt_id"]}
                tables.append(pa.table(columns | {"sample": rows["sample"], "correct": correct}))
                bar.advance()
    return pa.concat_tables(tables)


def _images_folder(model: str) -> str:
    return f"images/{model}"


def _scores_path(model: str, reward: str) -> str:
    return f"scores/{model}/{reward}.parquet"
