"""Wall-clock time of a run on several GPUs: what they can share, what they cannot, and what it costs.

Images are made and scored in shards, and a GPU works on one shard at a time. Training divides the pairs of
every step. Loading models, communication between GPUs, drawing pairs, and the report are not counted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from capo.cost.plan.work import PromptCounts, Stage
from capo.recipe import Recipe
from capo.reporting.wording import count

PAIR = "pair"
"""The pieces of training."""


@dataclass(frozen=True)
class StageTime:
    """The time of one stage on several GPUs."""

    stage: str
    hours: float
    """Wall-clock hours."""
    busy: float
    """Share of the GPUs' time in which they work, in (0, 1]; 1 if the stage scales to all of them."""
    limit: str
    """What leaves GPUs idle; empty if nothing does."""
    cost: float | None
    """Price of all GPUs for these hours, idle ones included; None without a price."""


@dataclass(frozen=True)
class _Pieces:
    """Equal pieces of a stage's work that can run at the same time, in `turns` one after another."""

    number: int
    noun: str
    turns: int = 1


def wall_clock(
    recipe: Recipe, prompts: PromptCounts, stages: Sequence[Stage], gpus: int, price: float | None
) -> list[StageTime]:
    """The times of `stages` on `gpus` GPUs; `price` is that of one GPU for one hour.

    Raises `ValueError` for less than one GPU and a negative price.
    """
    if gpus < 1:
        raise ValueError(f"--gpus: must be at least 1, got {gpus}")
    if price is not None and price < 0:
        raise ValueError(f"--price: must not be negative, got {price:g}")
    return [_stage_time(stage, _pieces(recipe, prompts, stage.name), gpus, price) for stage in stages]


def wall_clock_notes(gpus: int) -> list[str]:
    """Remarks on the hours on several GPUs."""
    if gpus == 1:
        return []
    return [
        "Wall-clock hours assume that all GPUs share the shards of images, each by a process of its own. "
        "A stage that runs in a single process takes its GPU hours instead."
    ]


def _stage_time(stage: Stage, pieces: _Pieces, gpus: int, price: float | None) -> StageTime:
    rounds = math.ceil(pieces.number / gpus)
    if pieces.noun == PAIR:  # processes must have equally many, so some GPUs may be left out
        rounds = pieces.number // max(n for n in range(1, gpus + 1) if pieces.number % n == 0)
    hours = stage.hours * rounds / pieces.number
    busy = pieces.number / (rounds * gpus)
    cost = None if price is None else hours * gpus * price
    return StageTime(stage.name, hours, busy, _limit(pieces, busy), cost)


def _limit(pieces: _Pieces, busy: float) -> str:
    if busy > 0.95:  # the last round of many is not worth a remark
        return ""
    times = f", {pieces.turns} times one after another" if pieces.turns > 1 else ""
    per = " per step" if pieces.noun == PAIR else ""
    return f"{count(pieces.number, pieces.noun)}{per}{times}"


def _pieces(recipe: Recipe, prompts: PromptCounts, stage: str) -> _Pieces:
    def shards(number: int | None) -> int:
        return math.ceil((number or 1) / recipe.generate.shard_prompts)

    if stage == "train":
        return _Pieces(recipe.train.global_batch_size, PAIR)
    if stage == "validation":
        return _Pieces(shards(prompts.validation), "shard", recipe.train.validations)
    if stage == "evaluate":
        return _Pieces(recipe.evaluate.models_compared * shards(prompts.evaluate), "shard")
    if stage == "benchmark":
        return _Pieces(max(1, sum(c.sampled * shards(c.prompts) for c in prompts.benchmarks)), "shard")
    return _Pieces(shards(prompts.train), "shard")
