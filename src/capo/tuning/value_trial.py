"""The validations of one value of a sweep, prompt by prompt."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from capo.pipeline import status
from capo.recipe import Recipe
from capo.reporting.examples import read_shown_prompts
from capo.scoring.image_sets import ImageSet
from capo.scoring.prompt_win_rates import prompt_win_rates
from capo.scoring.validation_folders import validated_folders
from capo.store import Run, atomic
from capo.store.manifest import pretty
from capo.training.log import recent_mean

Ending = Literal["done", "behind", "diverged"]

OUTCOME = "outcome.json"
"""The file in a value's run directory that says why its training was stopped."""


@dataclass(frozen=True)
class Validated:
    """The policy at a step against the base, by prompt [P]; NaN for a prompt without scores."""

    step: int
    rewards: Mapping[str, np.ndarray]
    """Win-rates by every reward."""
    training: np.ndarray
    """The mean over the training rewards."""
    held_out: np.ndarray | None
    """The mean over the held-out rewards; None if there are none."""
    drift: float

    @property
    def rate(self) -> float:
        """The mean win-rate by the training rewards over the prompts that have scores."""
        return float(np.nanmean(self.training))

    @property
    def scored(self) -> int:
        """The number of these prompts."""
        return int(np.isfinite(self.training).sum())


@dataclass(frozen=True)
class Trial:
    """One value of β, with its validations after step 0."""

    beta: float
    ending: Ending
    why: str
    """Why training was stopped; empty if it was not."""
    course: tuple[Validated, ...]

    @cached_property
    def best(self) -> Validated | None:
        """The validation with the highest mean win-rate by the training rewards, the first of ties."""
        return max(self.course, key=lambda row: row.rate, default=None)

    def at(self, step: int) -> Validated | None:
        """The validation at a step."""
        return next((row for row in self.course if row.step == step), None)


def read_trial(recipe: Recipe, folder: Path, ending: Ending = "done", why: str = "") -> Trial:
    """Read what the training in the run directory `folder` has validated so far."""
    run = Run(folder)
    train, base = run.artifact("train"), run.artifact("validation")
    ids, samples = list(read_shown_prompts(base)), recipe.train.validation_samples
    of_base = ImageSet(base, "base", "base/scores")
    metrics = train.read_json_lines("metrics.jsonl") if train.has("metrics.jsonl") else []
    course = []
    for step, images in validated_folders(train, [reward.name for reward in recipe.rewards]).items():
        scored = ImageSet(train, images, f"{images}/scores")
        rates = {
            reward.name: prompt_win_rates(
                reward.name, *(each.read_scores(reward.name, ids, samples) for each in (scored, of_base))
            )
            for reward in recipe.rewards
        }
        held_out = [rates[reward.name] for reward in recipe.rewards if reward.use == "evaluate"]
        course.append(
            Validated(
                step,
                rates,
                np.mean([rates[reward.name] for reward in recipe.training_rewards], axis=0),
                np.mean(held_out, axis=0) if held_out else None,
                recent_mean(metrics, "drift", step),
            )
        )
    return Trial(recipe.train.beta, ending, why, tuple(course))


def write_outcome(folder: Path, ending: Ending, why: str) -> None:
    """Record why the training in a run directory was stopped."""
    with atomic.write_file(folder / OUTCOME) as temporary:
        temporary.write_text(pretty({"ending": ending, "why": why}), encoding="utf-8")


def finished_trial(recipe: Recipe, folder: Path) -> Trial | None:
    """Return the trial in a run directory if its training is done, or was stopped with the same settings."""
    states = {artifact.name: artifact.state for artifact in status(recipe, folder)}
    if states["train"] == "done":
        return read_trial(recipe, folder)
    if states["train"] == "partial" and (folder / OUTCOME).is_file():
        record = json.loads((folder / OUTCOME).read_text(encoding="utf-8"))
        return read_trial(recipe, folder, record["ending"], record["why"])
    return None
