"""Validation: win-rates of a policy in training over its base, on fixed prompts and seeds.

    validation/base/shard-*.parquet, scores/REWARD.parquet                 an artifact, made once
    train/validation/step-000100/shard-*.parquet, scores/REWARD.parquet    of the policy at a step
    train/validation/step-000100-again-1/…                                 the same after a roll-back

What is there is not made again, so an interrupted validation goes on where it stopped.
"""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from capo.diffusion import load_family
from capo.diffusion.family import Family
from capo.diffusion.policy import widen
from capo.engine.device import select_device
from capo.images.shard_files import read_samples
from capo.pairing.columns import score_matrix
from capo.prompts import Prompt, load_prompts
from capo.recipe import Recipe, RewardSection
from capo.sampling.sampler import ImageRequest, sample_images
from capo.scoring.judging import can_judge, check_size, load_judge, verdicts
from capo.scoring.prompt_win_rates import present, prompt_error, prompt_win_rates
from capo.scoring.rater import Rater
from capo.scoring.score_table import decode_rows, score_rows
from capo.store import Artifact, Run

if TYPE_CHECKING:
    import pyarrow as pa

KEYS = ["prompt_id", "sample", "image"]


def validate_base(recipe: Recipe, artifact: Artifact) -> None:
    """Fill `validation/`: images of the base model and their scores, which no training has a part in."""
    prompts = validation_prompts(recipe)
    base = Shown(recipe, prompts, artifact, "base")
    if not base.scored:
        _sample_base(recipe, base)
        gc.collect()  # the rewards may need the device's memory
    samples = recipe.train.validation_samples
    artifact.commit({"prompts": len(prompts), "samples_per_prompt": samples, "rewards": [*base.scores]})


def validation_prompts(recipe: Recipe) -> list[Prompt]:
    """Those of `train.validation_prompts`, which must be there."""
    assert recipe.train.validation_prompts is not None
    return load_prompts(recipe.train.validation_prompts, recipe.seed, "train.validation_prompts")


class Validation:
    """Compares the policy with its base; `run(step)` gives the row for `validation.jsonl`."""

    def __init__(self, recipe: Recipe, run: Run, family: Family, artifact: Artifact) -> None:
        """`family` samples as the policy; `artifact` is where its images go."""
        self._recipe = recipe
        self._family = family
        self._artifact = artifact
        self._prompts = validation_prompts(recipe)
        self._base = Shown(recipe, self._prompts, run.artifact("validation"), "base")

    def run(self, step: int, roll_backs: int = 0) -> dict[str, Any]:
        """`win_rate/REWARD`, its `standard_error/REWARD` and `mean_reward/REWARD` by every reward.

        `win_rate` is the mean over the training rewards, what the best step is chosen by, and
        `held_out_win_rate` that over the held-out ones; `judge` and `judge_base` are the shares of
        images found right. Standard errors are over prompts. Step 0 of a first round is the base against
        itself. A step that comes again after `roll_backs` is another policy.
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
        row |= _held_out(np.mean(held_out, axis=0)) if held_out else {}
        return row | (_judged(policy.right, self._base.right) if self._base.judged else {})

    def _sampled(self, step: int, roll_backs: int) -> "Shown":
        again = f"-again-{roll_backs}" if roll_backs else ""
        shown = Shown(self._recipe, self._prompts, self._artifact, f"validation/step-{step:06d}{again}")
        if not shown.scored:
            shown.sample(self._family, f"validate step {step}")
        return shown


@dataclass(frozen=True)
class Shown:
    """One model's images of P prompts, K of each, in a folder of an artifact, and what is said of them."""

    recipe: Recipe
    prompts: Sequence[Prompt]
    artifact: Artifact
    folder: str

    @property
    def scored(self) -> bool:
        return all(self.artifact.has(self._place(reward)) for reward in self.recipe.rewards)

    @property
    def judged(self) -> bool:
        return can_judge(self.recipe.evaluate.judge, self.prompts)

    @cached_property
    def scores(self) -> Mapping[str, np.ndarray]:
        """Each reward's scores [P, K], made if need be; NaN where one is missing."""
        ids, samples = [prompt.prompt_id for prompt in self.prompts], self.recipe.train.validation_samples
        return {r.name: score_matrix(self._score(r), ids, samples) for r in self.recipe.rewards}

    @cached_property
    def right(self) -> np.ndarray:
        """The share of each prompt's images that the judge finds right [P]."""
        assert self.recipe.evaluate.judge is not None
        judge = load_judge(self.recipe.evaluate.judge)
        shards = read_samples(self.artifact, self.folder, KEYS)
        found = [v for rows in shards for v in verdicts(judge, self.prompts, rows, decode_rows(rows))]
        return np.reshape(found, (len(self.prompts), -1)).mean(axis=1)

    def sample(self, family: Family, description: str) -> None:
        """Make those images that are not there."""
        if self.judged:
            check_size(
                self.recipe.evaluate.judge, family.image_size(self.recipe.generate), "this model makes"
            )
        samples, key = self.recipe.train.validation_samples, ("validation", self.recipe.seed)
        request = ImageRequest(self.prompts, samples, self.recipe.generate, key, description)
        sample_images(family, request, self.artifact, self.folder)

    def _score(self, reward: RewardSection) -> "pa.Table":
        import pyarrow as pa

        relative = self._place(reward)
        if not self.artifact.has(relative):
            texts = {prompt.prompt_id: prompt.text for prompt in self.prompts}
            # Not kept for the next time: a large reward beside a model in training may not fit.
            rater = Rater(reward, select_device(self.recipe.engine))
            shards = read_samples(self.artifact, self.folder, KEYS)
            tables = [score_rows(rater, rows, texts) for rows in shards]
            self.artifact.write_table(relative, pa.concat_tables(tables))
        return self.artifact.read_table(relative)

    def _place(self, reward: RewardSection) -> str:
        return f"{self.folder}/scores/{reward.name}.parquet"


def _sample_base(recipe: Recipe, base: Shown) -> None:
    family = load_family(recipe.model, select_device(recipe.engine))
    widen(family, recipe.train)  # the policy is sampled so, and is to differ by what it learned alone
    base.sample(family, "validate the base")


def _held_out(rates: np.ndarray) -> dict[str, float | None]:
    """Of the win-rates [P] by the held-out rewards together; prompts without one are left out."""
    known = torch.from_numpy(present(rates))
    return {
        "held_out_win_rate": float(known.mean()) if len(known) else None,
        "held_out_standard_error": prompt_error(rates),
    }


def _judged(policy: np.ndarray, base: np.ndarray) -> dict[str, float | None]:
    """Of the shares of images found right [P]."""
    return {
        "judge": float(policy.mean()),
        "judge_base": float(base.mean()),
        "judge_difference": float((policy - base).mean()),
        "judge_standard_error": prompt_error(policy - base),
    }
