"""Estimate the disk space of every artifact; the images are the roughest part of the estimate."""

from capo.cost.plan.counts import Sampling, Training
from capo.cost.plan.work import PromptCounts
from capo.images.disk_space import image_space
from capo.recipe import Recipe

SCORE_BYTES = 12
"""A score in a compressed table."""


def disk(recipe: Recipe, prompts: PromptCounts, sampling: Sampling, training: Training) -> dict[str, float]:
    """Bytes by artifact, without those whose number of prompts is unknown."""

    def images(count: int) -> float:
        return image_space(count, sampling.pixels, recipe.generate.image_format)

    section = recipe.train
    sizes: dict[str, float] = {}
    if prompts.train is not None:
        count = prompts.train * recipe.generate.samples_per_prompt
        sizes["samples: images"] = images(count)
        sizes["samples: latents"] = count * sampling.latent
        sizes["samples: conditioning"] = prompts.train * sampling.conditioning
        sizes["scores"] = count * len(recipe.rewards) * SCORE_BYTES
        sizes["pairs"] = count * (len(recipe.training_rewards) + 1) * 8
    sizes["train: checkpoints"] = training.trained * section.checkpoint_bytes
    parameters = sum(sampling.parameters.values())
    sizes["train: best"] = section.policy_bytes(training.trained, parameters, recipe.model.dtype)
    if prompts.validation is not None:
        sizes["train: validation images"] = images(
            section.validations * prompts.validation * section.validation_samples
        )
    if prompts.evaluate is not None:
        sizes["evaluate: images"] = images(
            recipe.evaluate.models_compared * prompts.evaluate * recipe.evaluate.samples_per_prompt
        )
    if prompts.benchmarks:
        sizes["benchmarks: images"] = images(sum(count.judged_images for count in prompts.benchmarks))
    return sizes
