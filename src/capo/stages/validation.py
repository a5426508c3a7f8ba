"""Validation during training: win-rates of the policy over its base on fixed prompts and seeds.

    train/validation/base/shard-*.parquet, scores/REWARD.parquet           made once
    train/validation/step-000100/shard-*.parquet, scores/REWARD.parquet    of the policy at a step
    train/validation/step-000100-again-1/…                                 the same after a roll-back

What is there is not made again, so an interrupted validation goes on where it stopped.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from capo.diffusion.family import Family
from capo.diffusion.policy import Policy
from capo.method.winrate import standard_error
from capo.prompts import load_prompts
from capo.recipe import PromptsSection, Recipe, RewardSection
from capo.rewards import load_reward
from capo.stages.columns import score_matrix
from capo.stages.estimates import prompt_win_rates
from capo.stages.generate import read_samples, sample_images
from capo.stages.scores import decode_rows, score_rows
from capo.workspace import Artefact

if TYPE_CHECKING:
    import pyarrow as pa


class Validation:
    """Compares the policy with its base; `run(step)` gives the row for `validation.jsonl`."""

    def __init__(
        self, recipe: Recipe, prompts: PromptsSection, family: Family, policy: Policy, artefact: Artefact
    ) -> None:
        self.prompts = load_prompts(prompts, recipe.seed)
        self._recipe = recipe
        self._family = family
        self._policy = policy
        self._artefact = artefact

    def run(self, step: int, roll_backs: int = 0) -> dict[str, Any]:
        """`win_rate/REWARD` and `mean_reward/REWARD` by every reward, held-out ones included.

        `win_rate` is the mean over the training rewards, what the best step is chosen by;
        `held_out_win_rate` that over the held-out ones, with its standard error. Step 0 is the base
        model against itself. A step that comes again after `roll_backs` is another policy.
        """
        base = self._scores("base", 0)
        name = f"step-{step:06d}" + (f"-again-{roll_backs}" if roll_backs else "")
        policy = base if step == 0 else self._scores(name, step)
        rates = {name: prompt_win_rates(name, scores, base[name]) for name, scores in policy.items()}
        row: dict[str, Any] = {"step": step}
        for name, scores in policy.items():
            row[f"win_rate/{name}"] = float(np.nanmean(rates[name]))
            row[f"mean_reward/{name}"] = float(np.nanmean(scores))
        training = [row[f"win_rate/{reward.name}"] for reward in self._recipe.training_rewards]
        row["win_rate"] = sum(training) / len(training)
        held_out = [rates[reward.name] for reward in self._recipe.rewards if reward.use == "evaluate"]
        return row | (_held_out(np.mean(held_out, axis=0)) if held_out else {})

    def _scores(self, model: str, step: int) -> Mapping[str, np.ndarray]:
        """Each reward's scores [P, K] of the images of a model, made if need be."""
        folder, rewards = f"validation/{model}", self._recipe.rewards
        if not all(self._artefact.has(_scores_path(folder, reward)) for reward in rewards):
            self._make_images(folder, step)
        ids = [prompt.prompt_id for prompt in self.prompts]
        samples = self._recipe.train.validation_samples
        return {r.name: score_matrix(self._score(folder, r), ids, samples) for r in rewards}

    def _make_images(self, folder: str, step: int) -> None:
        with self._policy.reference() if step == 0 else nullcontext():
            sample_images(
                self._recipe,
                self._family,
                self.prompts,
                artefact=self._artefact,
                folder=folder,
                samples=self._recipe.train.validation_samples,
                seed_key="validation",
                keep_latents=False,
                description=f"validate step {step}",
            )

    def _score(self, folder: str, reward: RewardSection) -> "pa.Table":
        import pyarrow as pa

        relative = _scores_path(folder, reward)
        if not self._artefact.has(relative):
            texts = {prompt.prompt_id: prompt.text for prompt in self.prompts}
            # Not kept for the next time: a large reward beside a model in training may not fit.
            model = load_reward(reward, self._family.device)
            tables = [
                score_rows(model, rows, decode_rows(rows), texts, reward.batch_size)
                for rows in read_samples(self._artefact, folder, ["prompt_id", "sample", "image"])
            ]
            self._artefact.write_table(relative, pa.concat_tables(tables))
        return self._artefact.read_table(relative)


def _scores_path(folder: str, reward: RewardSection) -> str:
    return f"{folder}/scores/{reward.name}.parquet"


def _held_out(rates: np.ndarray) -> dict[str, float | None]:
    """Of the win-rates [P] by the held-out rewards together; prompts without one are left out."""
    present = torch.from_numpy(rates[np.isfinite(rates)])
    error = standard_error(present) if len(present) > 1 else None
    return {
        "held_out_win_rate": float(present.mean()) if len(present) else None,
        "held_out_standard_error": error,
    }
