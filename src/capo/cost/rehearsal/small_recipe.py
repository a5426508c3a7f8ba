"""The recipe of a rehearsal: the user's own models, rewards and options, with small numbers."""

from typing import Any

from capo.prompts import load_prompts
from capo.recipe import PromptsSection, Recipe

PROMPTS = 2
"""Prompts of every set. Each is a shard of its own, so that the second shows the speed without loading."""
MOST_SAMPLES = 16
"""Images of a prompt: as many as in the whole run up to this, since small batches are slow for their size."""
STEPS = 2
"""Steps of sampling and of training."""


def small_recipe(recipe: Recipe) -> Recipe:
    """Return `recipe` with small numbers.

    A batch of training keeps its size on the device. Two prompts may have no pair on their Pareto frontiers,
    so the rehearsal selects by the mean over rewards; and two steps at the full learning rate may diverge,
    so that is only a warning. Raises `PromptsError` for prompts that cannot be read.
    """
    values = recipe.model_dump()
    samples = min(MOST_SAMPLES, recipe.generate.samples_per_prompt)
    _shrink_prompts(values["prompts"], recipe.prompts, recipe.seed, "prompts")
    values["generate"] |= {
        "samples_per_prompt": samples,
        "num_inference_steps": min(STEPS, recipe.generate.num_inference_steps),
        "shard_prompts": 1,
    }
    if recipe.generate.adaptive is not None:
        values["generate"]["adaptive"]["first"] = samples
    values["pairs"] |= _pairs(recipe)
    values["train"] |= _training(recipe)
    _shrink_prompts(values["evaluate"]["prompts"], recipe.evaluate.prompts, recipe.seed, "evaluate.prompts")
    values["evaluate"]["samples_per_prompt"] = min(MOST_SAMPLES, recipe.evaluate.samples_per_prompt)
    validation, field = recipe.train.validation_prompts, "train.validation_prompts"
    if validation is not None:
        _shrink_prompts(values["train"]["validation_prompts"], validation, recipe.seed, field)
        values["train"]["validation_samples"] = min(MOST_SAMPLES, recipe.train.validation_samples)
    for section in values["benchmarks"]:
        section |= {"count": PROMPTS, "images": 1}
    return Recipe.model_validate(values)


def _shrink_prompts(values: dict[str, Any], section: PromptsSection, seed: int, field: str) -> None:
    known = PROMPTS if section.source == "images" else len(load_prompts(section, seed, field))
    values["count"] = min(PROMPTS, known)


def _pairs(recipe: Recipe) -> dict[str, Any]:
    return {"min_margin": None} | ({"selection": "sum"} if recipe.pairs.selection == "frontier" else {})


def _training(recipe: Recipe) -> dict[str, Any]:
    section = recipe.train
    return {
        "steps": STEPS,
        "global_batch_size": section.per_device_batch_size or section.global_batch_size,
        "warmup_steps": 0,
        "checkpoint_every": STEPS,
        "log_every": 1,
        "validate_every": STEPS,
        "on_divergence": "warn",
    }
