"""From the speed of a rehearsal to the hours of the whole run.

Sampling is scaled by FLOPs, since denoising takes most of the time of an image; scores by images; training
by pairs. Loading is added as often as the whole run loads.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from capo.cost.plan import Plan
from capo.cost.plan.counts import Sampling
from capo.cost.plan.work import Stage
from capo.cost.rehearsal.meter import MeasuredPart
from capo.recipe import Recipe

SAMPLING, TRAINING, READING = "prompts", "steps", "shards"
"""Units of progress: sampling counts prompts, training steps, and whatever reads images counts shards."""

STAGE_OF = {
    "generate": "generate",
    "score": "score",
    "train": "train",
    "validat": "validation",
    "benchmark": "benchmark",
}
"""How the names of the parts of a stage begin; all others belong to the evaluation."""


@dataclass(frozen=True)
class StageSpeed:
    """Measured seconds of one stage, without loading; 0 for work that it does not do."""

    per_flop: float
    """Of sampling."""
    per_image: float
    """Of everything that reads an image: rewards, judge, embedder."""
    per_pair: float
    """Of training."""
    loading: float
    """Of all loading in the rehearsal."""


def stage_of(part: str) -> str:
    """Return the stage of the plan that a part belongs to."""
    return next((stage for start, stage in STAGE_OF.items() if part.startswith(start)), "evaluate")


@dataclass(frozen=True)
class PartSpeed:
    """The measurement of one part, per image or pair."""

    name: str
    item: str
    """`image` or `pair`."""
    loading_seconds: float
    seconds_per_item: float | None
    """Excludes loading; None if the two cannot be separated."""
    peak_bytes: int
    """Of the GPU if there is one, else of the process."""


def part_speed(small: Recipe, part: MeasuredPart) -> PartSpeed:
    """Return the speed of a part in the rehearsal."""
    training = part.unit == TRAINING
    items = small.train.global_batch_size if training else _samples(small, stage_of(part.name))
    seconds, item = part.seconds_per_unit, "pair" if training else "image"
    per_item = None if seconds is None else seconds / items
    return PartSpeed(part.name, item, part.loading_seconds, per_item, part.peak_bytes)


def project(
    recipe: Recipe, plan: Plan, small: Recipe, parts: Iterable[MeasuredPart], counts: Sampling
) -> list[Stage]:
    """Return the stages of `plan`, the plan of `recipe`, with hours at the speed that `parts` measured.

    `small` is the recipe of the rehearsal, and `counts` its costs of sampling.
    """
    by_stage: dict[str, list[MeasuredPart]] = {}
    for part in parts:
        by_stage.setdefault(stage_of(part.name), []).append(part)
    found = []
    for stage in plan.stages:
        if stage.name == "benchmark":
            seconds = _benchmark_seconds(plan, small, by_stage.get(stage.name, []), counts)
            found.append(Stage(stage.name, stage.what, stage.flops, seconds / 3600))
            continue
        speed = stage_speed(small, stage.name, by_stage.get(stage.name, []), counts)
        repeated = _repetitions(recipe, stage.name) / _repetitions(small, stage.name)
        seconds = _seconds(recipe, plan, stage.name, speed) + speed.loading * repeated
        found.append(Stage(stage.name, stage.what, stage.flops, seconds / 3600))
    return found


def stage_speed(small: Recipe, stage: str, parts: Sequence[MeasuredPart], counts: Sampling) -> StageSpeed:
    """Return the speed of a stage from its parts in the rehearsal."""
    samples = _samples(small, stage)

    def mean(unit: str) -> dict[str, float]:
        """Seconds for one unit by kind of work, which all models in an evaluation do alike."""
        seconds: dict[str, list[float]] = {}
        for part in parts:
            if part.unit == unit and part.seconds_per_unit is not None:
                seconds.setdefault(_kind(part), []).append(part.seconds_per_unit)
        return {kind: sum(values) / len(values) for kind, values in seconds.items()}

    return StageSpeed(
        per_flop=sum(mean(SAMPLING).values()) / _prompt_flops(counts, samples),
        per_image=sum(mean(READING).values()) / samples,
        per_pair=sum(mean(TRAINING).values()) / small.train.global_batch_size,
        loading=sum(part.loading_seconds for part in parts),
    )


def _seconds(recipe: Recipe, plan: Plan, stage: str, speed: StageSpeed) -> float:
    if stage == "train":
        return speed.per_pair * recipe.train.steps * recipe.train.global_batch_size
    counts = {"validation": plan.prompts.validation, "evaluate": plan.prompts.evaluate}
    prompts, samples = counts.get(stage, plan.prompts.train) or 0, _samples(recipe, stage)
    models = recipe.evaluate.models_compared if stage == "evaluate" else _repetitions(recipe, stage)
    prompt = speed.per_flop * _prompt_flops(plan.sampling, samples) + speed.per_image * samples
    return models * prompts * prompt


def _benchmark_seconds(plan: Plan, small: Recipe, parts: Sequence[MeasuredPart], counts: Sampling) -> float:
    """Seconds of all benchmarks, each at the speed of its own judge."""
    seconds = 0.0
    for count in plan.prompts.benchmarks:
        own = [part for part in parts if part.name.startswith(f"benchmark {count.name}: ")]
        speed = stage_speed(small, "benchmark", own, counts)
        prompt = speed.per_flop * _prompt_flops(plan.sampling, count.images)
        seconds += count.sampled * count.prompts * prompt + count.judged_images * speed.per_image
        seconds += speed.loading
    return seconds


def _kind(part: MeasuredPart) -> str:
    """What a part does, whichever model's images it is for: a reward, the judge, or sampling."""
    if part.unit == SAMPLING:
        return SAMPLING
    if stage_of(part.name) == "benchmark":
        return part.name.rpartition(" ")[0]
    return part.name.partition(":")[0] if part.name.endswith(" images") else part.name


def _prompt_flops(counts: Sampling, samples: int) -> int:
    return counts.encode + samples * (counts.image + counts.decode)


def _samples(recipe: Recipe, stage: str) -> int:
    by_stage = {
        "validation": recipe.train.validation_samples,
        "evaluate": recipe.evaluate.samples_per_prompt,
        "benchmark": 1,  # in a rehearsal
    }
    return by_stage.get(stage, recipe.generate.samples_per_prompt)


def _repetitions(recipe: Recipe, stage: str) -> int:
    """How often a run does the work of a stage."""
    return recipe.train.validations if stage == "validation" else 1
