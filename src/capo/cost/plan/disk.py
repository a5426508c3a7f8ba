"""What each artifact takes on the disk: an estimate, of which the images are the roughest part."""

from capo.cost.plan.counts import Sampling, Training
from capo.cost.plan.memory_needs import moment_bytes
from capo.cost.plan.work import Prompts, models_compared, validations
from capo.images.disk_space import image_space
from capo.recipe import Recipe

SCORE = 12
"""Bytes of a score in a table, compressed."""


def disk(recipe: Recipe, prompts: Prompts, sampling: Sampling, training: Training) -> dict[str, float]:
    """Bytes by artifact; those whose prompts are not known are left out."""

    def images(count: int) -> float:
        return image_space(count, sampling.pixels, recipe.generate.image_format)

    section = recipe.train
    found: dict[str, float] = {}
    if prompts.train is not None:
        count = prompts.train * recipe.generate.samples_per_prompt
        found["samples: images"] = images(count)
        found["samples: latents"] = count * sampling.latent
        found["samples: conditioning"] = prompts.train * sampling.conditioning
        found["scores"] = count * len(recipe.rewards) * SCORE
        found["pairs"] = count * (len(recipe.training_rewards) + 1) * 8
    average = 0 if section.ema_decay is None else 4
    # The best one besides, and the next one before an old one goes.
    checkpoints = min(section.keep_checkpoints + 2, -(-section.steps // section.checkpoint_every))
    found["train: checkpoints"] = checkpoints * training.trained * (4 + moment_bytes(recipe) + average)
    others = sum(size for name, size in sampling.weights.items() if name != sampling.denoiser)
    found["train: best"] = training.trained * 4 + (others if section.adaptation == "full" else 0)
    if prompts.validation is not None:
        found["train: validation images"] = images(
            validations(recipe) * prompts.validation * section.validation_samples
        )
    if prompts.evaluate is not None:
        found["evaluate: images"] = images(
            models_compared(recipe) * prompts.evaluate * recipe.evaluate.samples_per_prompt
        )
    return found
