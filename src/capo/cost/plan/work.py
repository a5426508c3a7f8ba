"""How much each stage computes, and how long a GPU takes for it."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from capo.cost.plan.counts import Sampling, Training, computing_dtype
from capo.cost.plan.gpus import Gpu
from capo.cost.plan.scoring_work import score_flops, score_precision
from capo.recipe import Recipe, RewardSection

Work = Counter[str]
"""FLOPs by the precision they are done in."""


@dataclass(frozen=True)
class Prompts:
    """How many prompts there are; None where that is not known before the file is there."""

    train: int | None
    validation: int | None
    evaluate: int | None


@dataclass(frozen=True)
class Stage:
    """What a stage computes; `hours` of one GPU."""

    name: str
    what: str
    flops: int
    hours: float


def stages(
    recipe: Recipe, prompts: Prompts, sampling: Sampling, training: Training, gpu: Gpu, utilisation: float
) -> list[Stage]:
    """The stages that a GPU works for, in order; those whose prompts are not known are left out."""
    found = []

    def add(name: str, what: str, work: Work) -> None:
        seconds = sum(flops / (gpu.peak(dtype) * utilisation) for dtype, flops in work.items())
        found.append(Stage(name, what, sum(work.values()), seconds / 3600))

    if prompts.train is not None:
        images = prompts.train * recipe.generate.samples_per_prompt
        made = f"{images:,} images"
        if recipe.generate.adaptive is not None:
            made = f"{prompts.train * recipe.generate.adaptive.first:,} to {made}"
        add("generate", f"{made}, {sampling.steps} steps", _sampling(recipe, sampling, prompts.train, images))
        add("score", f"{made}, {len(recipe.rewards)} rewards", _scoring(recipe.rewards, images))
    section = recipe.train
    pairs = section.steps * section.global_batch_size
    policy = training.checkpointed if section.gradient_checkpointing else training.policy
    each = training.reference.flops + policy.flops
    add(
        "train",
        f"{section.steps:,} steps of {section.global_batch_size} pairs",
        Work({computing_dtype(recipe): pairs * each}),
    )
    if prompts.validation is not None:
        times = validations(recipe)
        images = times * prompts.validation * section.validation_samples
        work = _sampling(recipe, sampling, times * prompts.validation, images) + _scoring(
            recipe.rewards, images
        )
        add("validation", f"{times} × {images // times:,} images", work)
    if prompts.evaluate is not None:
        models = models_compared(recipe)
        images = models * prompts.evaluate * recipe.evaluate.samples_per_prompt
        work = _sampling(recipe, sampling, models * prompts.evaluate, images) + _scoring(
            recipe.rewards, images
        )
        add("evaluate", f"{models} × {images // models:,} images", work)
    return found


def shares(recipe: Recipe) -> dict[str, dict[str, float]]:
    """The artifacts that each stage's work goes into, and what share of it."""
    times, models = validations(recipe), models_compared(recipe)
    return {
        "generate": {"samples": 1.0},
        "score": {"scores": 1.0},
        "train": {"train": 1.0},
        "validation": {"validation": 1 / times, "train": 1 - 1 / times},
        "evaluate": {"baseline": 1 - 1 / models, "evaluate": 1 / models},
    }


def not_counted(rewards: Sequence[RewardSection]) -> list[str]:
    """The rewards whose work is not known here."""
    return [reward.name for reward in rewards if score_flops(reward) is None]


def validations(recipe: Recipe) -> int:
    """How often validation makes images: once of the base, and every so many steps."""
    return 1 + math.ceil(recipe.train.steps / recipe.train.validate_every)


def models_compared(recipe: Recipe) -> int:
    """How many models evaluation makes images of."""
    return 3 if recipe.evaluate.null_row else 2


def _sampling(recipe: Recipe, sampling: Sampling, prompts: int, images: int) -> Work:
    work = Work({recipe.model.dtype: images * sampling.image + prompts * sampling.encode})
    # A VAE is made of convolutions, but for one layer.
    precision = "tf32" if sampling.decode_dtype == "float32" else sampling.decode_dtype
    return work + Work({precision: images * sampling.decode})


def _scoring(rewards: Sequence[RewardSection], images: int) -> Work:
    return sum((Work({dtype: images * flops}) for dtype, flops in map(_scored, rewards)), Work())


def _scored(reward: RewardSection) -> tuple[str, int]:
    return score_precision(reward), score_flops(reward) or 0
