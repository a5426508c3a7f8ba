"""The check that no shard of images of a stage will be too large to be read back."""

from functools import partial

from capo.diffusion.model_checks import model_facts
from capo.images.disk_space import check_shard, image_space
from capo.recipe import Recipe
from capo.store.check import Check
from capo.store.step import StageName


def shard_check(recipe: Recipe, field: str, prompts: int | None, samples: int, stage: StageName) -> Check:
    """The check of shards with `samples` images of each of their prompts.

    `prompts` is the number of all prompts, None if it is not known.
    """
    return Check(field, stage, partial(_check_shards, recipe, prompts, samples))


def _check_shards(recipe: Recipe, prompts: int | None, samples: int) -> None:
    settings = recipe.generate
    size = model_facts(recipe.model, settings, recipe.train).image_size
    if size is not None:  # otherwise the check of the model says what is wrong
        images = image_space(samples, size[0] * size[1], settings.image_format)
        check_shard(min(prompts or settings.shard_prompts, settings.shard_prompts), images)
