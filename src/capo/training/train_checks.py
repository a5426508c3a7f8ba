"""Checks of what training needs, before a run: the launch, packages, and what validation needs."""

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec

from capo.diffusion.model_checks import length_check, model_check
from capo.engine.launch import check_launch, processes
from capo.prompts.prompt_checks import check_prompts, load_texts, on_hub
from capo.recipe import Recipe, TrainSection
from capo.rewards.reward_checks import reward_check
from capo.sampling.collect_prompts import training_texts
from capo.sampling.shard_check import shard_check
from capo.store import Run
from capo.store.check import Check, Finding
from capo.store.engine_checks import engine_checks

VALIDATION = "train.validation_prompts"


def training_checks(recipe: Recipe) -> list[Check]:
    """The checks of training itself."""
    section = recipe.train
    return [
        model_check(recipe.model, recipe.generate, section, "train"),
        *engine_checks(recipe.engine, "train"),
        Check("train.sharding", "train", partial(_check_launch, section), machine=True),
        Check("train.optimizer", "train", partial(_check_packages, section), machine=True),
    ]


def validation_checks(recipe: Recipe, run: Run) -> list[Check]:
    """The checks of validation; none without validation prompts."""
    prompts = recipe.train.validation_prompts
    if prompts is None:
        return []
    others = {"prompts": partial(training_texts, recipe, run)}
    find = partial(check_prompts, prompts, recipe.seed, VALIDATION, others)
    samples = recipe.train.validation_samples
    return [
        Check(VALIDATION, "train", find, machine=on_hub(prompts)),
        length_check(
            recipe.model, VALIDATION, partial(load_texts, prompts, recipe.seed, VALIDATION), "train"
        ),
        shard_check(recipe, "train.validation_samples", prompts.count, samples, "train"),
        *(reward_check(reward, "train") for reward in recipe.rewards),
    ]


def _check_launch(section: TrainSection) -> Iterator[Finding]:
    check_launch(section.sharding)
    size, pairs = processes().size, section.global_batch_size
    if pairs % size:
        yield Finding(
            "train.global_batch_size",
            f"{pairs} pairs do not divide evenly between {size} processes; choose a multiple of {size}",
        )


def _check_packages(section: TrainSection) -> Iterator[Finding]:
    if section.optimizer == "adamw-8bit" and find_spec("bitsandbytes") is None:
        yield Finding(
            "train.optimizer",
            "bitsandbytes is not installed; pip install 'capo-diffusion[8bit]', or set it to adamw",
        )
