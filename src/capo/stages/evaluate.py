"""The evaluate stage: the tuned model against its base on prompts of their own (App. B.2).

The models are `base`, `tuned` and, to show the size of chance, `null`: the base again with other
seeds. Base and tuned share their seeds, so their images of a prompt can be shown side by side.
"""

import gc
import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from capo import runtime
from capo.diffusion import load_family
from capo.diffusion.saved import SavedPolicy, find_policy
from capo.progress import progress
from capo.prompts import Prompt, load_prompts
from capo.recipe import Recipe, RewardSection
from capo.rewards import load_reward
from capo.shapes.scenes import SIZE
from capo.stages.generate import sample_images, shard_path
from capo.stages.pair import score_matrix
from capo.stages.prompts import prompt_table
from capo.stages.results import results
from capo.stages.score import decode_rows, finished, score_rows
from capo.workspace import Artefact, Run

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image

KEPT_BYTES = 1 << 30
"""Decoded images that are kept for the next reward; more are decoded again."""

PARTS = "parts"
"""Scores of single shards, until those of all models are whole."""


def evaluate(recipe: Recipe, run: Run, artefact: Artefact) -> None:
    """Images of every model, their scores by every reward, judgements, and `results.json`.

    Each step goes on where it stopped, shard by shard. A score that is missing is left out of the
    win-rates and counted.
    """
    prompts = load_prompts(recipe.evaluate.prompts, recipe.seed)
    _check_judgeable(recipe, prompts)
    artefact.write_table("prompts.parquet", prompt_table(prompts))
    models = ("base", "tuned", "null") if recipe.evaluate.null_row else ("base", "tuned")
    policy = _policy(recipe, run)
    _make_images(recipe, artefact, prompts, models, policy)
    gc.collect()  # the rewards may need the device's memory
    images = [Images(artefact, model) for model in models]
    scores = {reward.name: _score(recipe, artefact, reward, prompts, images) for reward in recipe.rewards}
    artefact.remove(PARTS)
    correct = None if recipe.evaluate.judge is None else _judge(recipe, artefact, prompts, images)
    found = results(recipe, prompts, scores, correct)
    told = ("step", "adaptation", "soup")
    found["policy"] = {name: policy.record[name] for name in told if name in policy.record}
    artefact.write_json("results.json", found)
    artefact.commit(
        {
            "prompts": found["prompts"],
            "win_rate": {reward["name"]: reward["win_rate"] for reward in found["rewards"]},
            "training_win_rate": found["training_win_rate"]["value"],
            "warnings": found["warnings"],
        }
    )


class Images:
    """One model's images, shard by shard; small ones are decoded once and kept."""

    def __init__(self, artefact: Artefact, model: str) -> None:
        self.model = model
        self._artefact = artefact
        self._folder = f"images/{model}/"
        self._kept: dict[str, list[Image.Image]] = {}
        self._bytes = 0

    @property
    def shards(self) -> list[str]:
        names = (name for name in self._artefact.files() if name.startswith(self._folder))
        return [name.removeprefix(self._folder) for name in names if name.endswith(".parquet")]

    def read(self, shard: str) -> "tuple[pa.Table, list[Image.Image]]":
        """The shard's rows (prompt_id, sample) and its images."""
        place = self._folder + shard
        if shard in self._kept:
            return self._artefact.read_table(place, ["prompt_id", "sample"]), self._kept[shard]
        rows = self._artefact.read_table(place, ["prompt_id", "sample", "image"])
        images = decode_rows(rows)
        size = sum(image.width * image.height * len(image.getbands()) for image in images)
        if self._bytes + size <= KEPT_BYTES:
            self._kept[shard] = images
            self._bytes += size
        return rows, images


def _check_judgeable(recipe: Recipe, prompts: list[Prompt]) -> None:
    unknown = [prompt.text for prompt in prompts if "include" not in prompt.metadata]
    if recipe.evaluate.judge is not None and unknown:
        raise ValueError(
            f"evaluate.judge: {recipe.evaluate.judge} needs prompts that say what must be seen, as those "
            f"of shapes:test; {len(unknown)} of {recipe.evaluate.prompts.source} do not, the first being "
            f"{unknown[0]!r}"
        )


def _check_size(recipe: Recipe, size: tuple[int, int]) -> None:
    if recipe.evaluate.judge == "shapes" and size != (SIZE, SIZE):
        raise ValueError(
            f"evaluate.judge: shapes looks at images of {SIZE}×{SIZE} pixels, and this model makes "
            f"{size[1]}×{size[0]}; set it to null"
        )


def _policy(recipe: Recipe, run: Run) -> SavedPolicy:
    if recipe.evaluate.policy is None:
        return find_policy(run.artefact("train").path("best"))
    policy = find_policy(recipe.evaluate.policy)
    policy.check_base(recipe.model)
    return policy


def _make_images(
    recipe: Recipe, artefact: Artefact, prompts: list[Prompt], models: tuple[str, ...], policy: SavedPolicy
) -> None:
    from capo.diffusion.policy import load_policy

    shards = range(math.ceil(len(prompts) / recipe.generate.shard_prompts))
    if all(artefact.has(shard_path(f"images/{model}", shard)) for model in models for shard in shards):
        return
    family = load_family(recipe.model, runtime.device(recipe.engine))
    _check_size(recipe, family.image_size(recipe.generate))
    for model in sorted(models, key=("base", "null", "tuned").index):
        if model == "tuned":  # last, as it changes the family
            load_policy(family, policy.folder)
        sample_images(
            recipe,
            family,
            prompts,
            artefact=artefact,
            folder=f"images/{model}",
            samples=recipe.evaluate.samples_per_prompt,
            seed_key="evaluate-null" if model == "null" else "evaluate",
            keep_latents=False,
            description=f"evaluate: {model} images",
        )


def _score(
    recipe: Recipe, artefact: Artefact, reward: RewardSection, prompts: list[Prompt], images: list[Images]
) -> dict[str, np.ndarray]:
    """One reward's scores of every model, float64 [P, K], NaN where one is missing."""
    import pyarrow as pa

    texts = {prompt.prompt_id: prompt.text for prompt in prompts}
    samples = recipe.evaluate.samples_per_prompt
    load = cache(lambda: load_reward(reward, runtime.device(recipe.engine)))
    found = {}
    with progress(f"evaluate: {reward.name}", len(images) * len(texts) * samples, "images") as bar:
        for each in images:
            whole = f"scores/{each.model}/{reward.name}.parquet"
            if artefact.has(whole):
                table = artefact.read_table(whole)
                bar.advance(len(table), resumed=True)
            else:
                shards = []
                for shard in each.shards:
                    part = f"{PARTS}/{each.model}/{reward.name}/{shard}"
                    rows = finished(artefact, part)
                    resumed = rows is not None
                    if rows is None:
                        rows = score_rows(load(), *each.read(shard), texts, reward.batch_size)
                        artefact.write_table(part, rows)
                    shards.append(rows)
                    bar.advance(len(rows), resumed=resumed)
                table = pa.concat_tables(shards).combine_chunks()
                artefact.write_table(whole, table)
            found[each.model] = score_matrix(table, list(texts), samples)
    return found


def _judge(
    recipe: Recipe, artefact: Artefact, prompts: list[Prompt], images: list[Images]
) -> dict[str, np.ndarray]:
    """Whether the judge accepts each image of every model, bool [P, K]."""
    import pyarrow.compute as pc

    shape = (len(prompts), recipe.evaluate.samples_per_prompt)
    if not artefact.has("judgements.parquet"):
        artefact.write_table("judgements.parquet", _judgements(prompts, images))
    table = artefact.read_table("judgements.parquet")
    return {
        each.model: table.filter(pc.equal(table["model"], each.model))["correct"].to_numpy().reshape(shape)
        for each in images
    }


def _judgements(prompts: list[Prompt], images: list[Images]) -> "pa.Table":
    import pyarrow as pa

    from capo.shapes.judge import judge

    metadata = {prompt.prompt_id: prompt.metadata for prompt in prompts}
    tables = []
    for each in images:
        with progress(f"judge: {each.model} images", len(each.shards), "shards") as bar:
            for shard in each.shards:
                rows, decoded = each.read(shard)
                keys = zip(decoded, rows["prompt_id"].to_pylist(), strict=True)
                correct = [judge(np.asarray(image), metadata[prompt_id]) for image, prompt_id in keys]
                columns = {"model": [each.model] * len(rows), "prompt_id": rows["prompt_id"]}
                tables.append(pa.table(columns | {"sample": rows["sample"], "correct": correct}))
                bar.advance()
    return pa.concat_tables(tables)
