"""Checks of the space that images take: that a shard can be read back, and that the disk has room for all."""

from collections.abc import Iterator
from functools import partial

from capo.diffusion.model_checks import model_facts
from capo.images.disk_space import DiskSpace, check_shard, check_space, image_space
from capo.prompts import load_prompts
from capo.recipe import PromptsSection, Recipe
from capo.store import Run
from capo.store.check import Check, Finding
from capo.store.step import StageName


def shard_check(recipe: Recipe, field: str, prompts: int | None, samples: int, stage: StageName) -> Check:
    """The check of shards with `samples` images of each of their prompts.

    `prompts` is the number of all prompts, None if it is not known.
    """
    return Check(field, stage, partial(_check_shards, recipe, prompts, samples))


def disk_check(recipe: Recipe, run: Run) -> Check:
    """The check that the disk of the run directory has room for what all stages write."""
    return Check("generate.image_format", "generate", partial(_check_disk, recipe, run), machine=True)


def _check_disk(recipe: Recipe, run: Run) -> Iterator[Finding]:
    facts = model_facts(recipe.model, recipe.generate, recipe.train)
    numbers = [_images(recipe, *section) for section in _sections(recipe)]
    if facts.image_size is None or None in numbers:
        return  # the checks of the model and of the prompts say what is wrong
    pixels, sampled = facts.image_size[0] * facts.image_size[1], numbers[0] or 0
    total = sum(number or 0 for number in numbers)
    images = image_space(total, pixels, recipe.generate.image_format)
    prompts = sampled // (recipe.generate.samples_per_prompt or 1)
    needed = DiskSpace(
        images,
        latents=sampled * facts.latent_bytes,
        conditioning=prompts * (facts.conditioning_bytes or 0),
        checkpoints=facts.trained * recipe.train.checkpoint_bytes,
        policy=recipe.train.policy_bytes(facts.trained, facts.parameters, recipe.model.dtype),
    ).without(run.own_bytes())  # of an interrupted run
    report = f"{total:,} images of all stages: {check_space(needed, run.path)}"
    if facts.conditioning_bytes is None:
        report += ". This is without the conditioning, whose size is not known before prompts are encoded"
    yield Finding("generate.image_format", report, "note")


def _sections(recipe: Recipe) -> Iterator[tuple[str, PromptsSection, int]]:
    """Every section of prompts: its field, the section, and the images of a prompt in the whole run."""
    sampled = 0 if recipe.images is not None else recipe.generate.samples_per_prompt
    yield "prompts", recipe.prompts, sampled
    train, evaluate = recipe.train, recipe.evaluate
    if train.validation_prompts is not None:
        times = train.validations * train.validation_samples
        yield "train.validation_prompts", train.validation_prompts, times
    yield "evaluate.prompts", evaluate.prompts, evaluate.models_compared * evaluate.samples_per_prompt


def _images(recipe: Recipe, field: str, section: PromptsSection, images: int) -> int | None:
    """The number of images of a section of prompts; None if the prompts cannot be read."""
    if images == 0:
        return 0
    try:
        return images * len(load_prompts(section, recipe.seed, field))
    except (ValueError, OSError):
        return None


def _check_shards(recipe: Recipe, prompts: int | None, samples: int) -> None:
    settings = recipe.generate
    size = model_facts(recipe.model, settings, recipe.train).image_size
    if size is not None:  # otherwise the check of the model says what is wrong
        images = image_space(samples, size[0] * size[1], settings.image_format)
        check_shard(min(prompts or settings.shard_prompts, settings.shard_prompts), images)
