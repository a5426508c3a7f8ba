"""Validation: win-rates of the policy in training over its base model, on fixed prompts and seeds.

    validation/prompts.parquet                                             the prompts
    validation/base/shard-*.parquet, scores/REWARD.parquet                 the base model; made once
    train/validation/step-000100/shard-*.parquet, scores/REWARD.parquet    the policy at a step
    train/validation/step-000100-again-1/…                                 the same step after a roll-back

Images and scores that exist are kept, so an interrupted validation resumes shard by shard.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from capo.diffusion import load_family, load_weightless
from capo.diffusion.family import Family
from capo.diffusion.policy import widen
from capo.engine.device import select_device
from capo.engine.events import ComparedImages, ValidationStep, emit
from capo.engine.shard_work import Executor, Workplace
from capo.images.first_images import first_images
from capo.prompts import Prompt, load_prompts
from capo.prompts.table import prompt_table
from capo.recipe import Recipe
from capo.sampling.image_request import ImageRequest
from capo.sampling.sampler import Sampling, run_sampling
from capo.scoring.image_sets import ImageSet, score_image_sets
from capo.scoring.judge_images import judge_images
from capo.scoring.judging import can_judge, check_size
from capo.scoring.prompt_win_rates import present, prompt_error, prompt_win_rates
from capo.scoring.validation_folders import validation_folder
from capo.store import Artifact
from capo.store.step import Job

PROMPTS = "prompts.parquet"

JUDGED = "judgements"
"""The folder of judgments on shards, until all are there."""

SHOWN = 4
"""Prompts of which callbacks can read images."""


def validate_base(recipe: Recipe, artifact: Artifact, executor: Executor) -> None:
    """Fill `validation/`: images of the base model and their scores, which do not depend on training."""
    prompts = validation_prompts(recipe)
    base = ValidationImages(recipe, prompts, artifact, "base", executor, artifact)
    if not base.scored:
        base.sample(executor, "validate the base", _load_base)
    artifact.write_table(PROMPTS, prompt_table(prompts))
    samples = recipe.train.validation_samples
    truncated = sum(load_weightless(recipe.model).truncates([prompt.text for prompt in prompts]))
    counts = {"prompts": len(prompts), "samples_per_prompt": samples}
    counts |= {"truncated_prompts": truncated} if truncated else {}
    artifact.commit({**counts, "rewards": [*base.scores]})


def validation_prompts(recipe: Recipe) -> list[Prompt]:
    """The prompts of `train.validation_prompts`, which the recipe must have."""
    assert recipe.train.validation_prompts is not None
    return load_prompts(recipe.train.validation_prompts, recipe.seed, "train.validation_prompts")


class Validation:
    """Compares the policy with its base model; `run(step)` returns a row for `validation.jsonl`."""

    def __init__(self, job: Job, family: Family, sampling: Executor) -> None:
        """`family` samples with the policy's weights, by `sampling`; images go to the job's artifact."""
        recipe, base = job.recipe, job.run.artifact("validation")
        self._recipe = recipe
        self._family = family
        self._artifact = job.artifact
        self._executor, self._sampling = job.executor, sampling
        self._prompts = validation_prompts(recipe)
        self._base = ValidationImages(recipe, self._prompts, base, "base", job.executor, job.artifact)

    def run(self, step: int, roll_backs: int = 0) -> dict[str, Any]:
        """Validate the policy at a step; `roll_backs` counts how often training has rolled back so far.

        Returns `win_rate/REWARD`, `standard_error/REWARD`, and `mean_reward/REWARD` for every reward;
        `win_rate`, the mean over the training rewards, which selects the best step; `held_out_win_rate`, the
        mean over the held-out rewards; and with a judge `judge` and `judge_base`, the shares of images it
        accepts. Standard errors are over prompts. Step 0 of a first round compares the base with itself.
        """
        at_base = step == 0 and self._recipe.start is None
        policy = self._base if at_base else self._sampled(step, roll_backs)
        base = self._base.scores
        rates = {name: prompt_win_rates(name, scores, base[name]) for name, scores in policy.scores.items()}
        row: dict[str, Any] = {"step": step}
        for name, scores in policy.scores.items():
            row[f"win_rate/{name}"] = float(np.nanmean(rates[name]))
            row[f"standard_error/{name}"] = prompt_error(rates[name])
            row[f"mean_reward/{name}"] = float(np.nanmean(scores))
        names = [reward.name for reward in self._recipe.training_rewards]
        row["win_rate"] = sum(row[f"win_rate/{name}"] for name in names) / len(names)
        row["standard_error"] = prompt_error(np.mean([rates[name] for name in names], axis=0))
        held_out = [rates[reward.name] for reward in self._recipe.rewards if reward.use == "evaluate"]
        if held_out:
            row |= _held_out(np.mean(held_out, axis=0))
        if self._base.judged:
            row |= _judge_columns(policy.accepted, self._base.accepted)
        measures = {name: value for name, value in row.items() if name != "step"}
        emit(ValidationStep(step, measures, partial(self._compared, policy)))
        return row

    def _compared(self, policy: "ValidationImages") -> list[ComparedImages]:
        texts = {prompt.prompt_id: prompt.text for prompt in self._prompts}
        base, tuned = (first_images(side.artifact, side.folder, SHOWN) for side in (self._base, policy))
        return [ComparedImages(texts[name], base[name], tuned[name]) for name in base]

    def _sampled(self, step: int, roll_backs: int) -> "ValidationImages":
        folder = validation_folder(step, roll_backs)
        artifact, executor = self._artifact, self._executor
        images = ValidationImages(self._recipe, self._prompts, artifact, folder, executor, artifact)
        if not images.scored:
            images.sample(self._sampling, f"validate step {step}", _held_policy, self._family)
        return images


@dataclass(frozen=True)
class ValidationImages:
    """One model's images of P prompts, K of each, in a folder of an artifact; their scores and judgments."""

    recipe: Recipe
    prompts: Sequence[Prompt]
    artifact: Artifact
    folder: str
    executor: Executor
    judged_in: Artifact
    """Where judgments are kept until all are there; the artifact of the base's images is complete."""

    @cached_property
    def images(self) -> ImageSet:
        return ImageSet(self.artifact, self.folder, f"{self.folder}/scores")

    @property
    def scored(self) -> bool:
        """True if every reward has scored all images."""
        return all(self.artifact.has(self.images.table_path(reward.name)) for reward in self.recipe.rewards)

    @property
    def judged(self) -> bool:
        """True if the recipe has a judge that can judge all prompts."""
        return can_judge(self.recipe.evaluate.judge, self.prompts)

    @cached_property
    def scores(self) -> Mapping[str, np.ndarray]:
        """The scores [P, K] by every reward, NaN where one is missing; computed if necessary."""
        # The models are released afterwards: they may not fit into memory with a model in training.
        recipe = self.recipe
        score_image_sets(
            self.executor, [self.images], recipe.rewards, self.prompts, recipe.engine, "validate"
        )
        ids, samples = [prompt.prompt_id for prompt in self.prompts], self.recipe.train.validation_samples
        return {r.name: self.images.read_scores(r.name, ids, samples) for r in self.recipe.rewards}

    @cached_property
    def accepted(self) -> np.ndarray:
        """The share of each prompt's images that the judge accepts [P]."""
        judge = self.recipe.evaluate.judge
        assert judge is not None
        shards, place = self.images.shards, (self.judged_in, JUDGED)
        tables = judge_images(self.executor, judge, self.prompts, shards, place, "validate: judge")
        self.judged_in.remove(JUDGED)
        judgments = np.concatenate([table["correct"].to_numpy() for table in tables])
        return judgments.reshape(len(self.prompts), -1).mean(axis=1)

    def sample(
        self,
        executor: Executor,
        title: str,
        load: Callable[[Recipe, Workplace], Family],
        held: Family | None = None,
    ) -> None:
        """Make the images that are missing with the model that `load` returns; `held` is in this process."""
        request = ImageRequest(
            prompts=self.prompts,
            samples=self.recipe.train.validation_samples,
            settings=self.recipe.generate,
            seed_key=("validation", self.recipe.seed),
            description=title,
            folder=self.folder,
        )
        load = partial(_load_checked, self.recipe, load, self.judged)
        work = Sampling(title, self.artifact.run.access(), self.artifact.name, [request], load)
        run_sampling(executor, work, self.artifact, held)


def _load_checked(
    recipe: Recipe, load: Callable[[Recipe, Workplace], Family], judged: bool, place: Workplace
) -> Family:
    """Load a model; raises `ValueError` if a judge does not accept the images that it makes."""
    family = load(recipe, place)
    if judged:
        check_size(recipe.evaluate.judge, family.image_size(recipe.generate), "this model makes")
    return family


def _load_base(recipe: Recipe, place: Workplace) -> Family:
    family = load_family(recipe.model, select_device(recipe.engine))
    widen(family, recipe.train)  # as the policy is sampled, so that the two differ only by what it learned
    return family


def _held_policy(recipe: Recipe, place: Workplace) -> Family:
    family: Family = place.held
    return family


def _held_out(rates: np.ndarray) -> dict[str, float | None]:
    """Columns for the mean win-rates [P] over the held-out rewards; prompts without one are left out."""
    known = torch.from_numpy(present(rates))
    return {
        "held_out_win_rate": float(known.mean()) if len(known) else None,
        "held_out_standard_error": prompt_error(rates),
    }


def _judge_columns(policy: np.ndarray, base: np.ndarray) -> dict[str, float | None]:
    """Columns for the shares of images [P] that the judge accepts."""
    return {
        "judge": float(policy.mean()),
        "judge_base": float(base.mean()),
        "judge_difference": float((policy - base).mean()),
        "judge_standard_error": prompt_error(policy - base),
    }
