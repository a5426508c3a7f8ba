"""Compute the cost of a recipe before it runs: FLOPs and hours by stage, memory by part, disk by artifact.

FLOPs are counted on the recipe's own model at its real size, without its weights. Hours follow from the
FLOPs, the GPU's peak speed, and the assumed share of that peak.
"""

from dataclasses import dataclass
from pathlib import Path

from capo.cost.gpus import Gpu, find_gpu
from capo.cost.plan.benchmark_work import count_benchmarks
from capo.cost.plan.counts import Sampling, Training, count_sampling, count_training
from capo.cost.plan.disk import disk
from capo.cost.plan.memory_needs import generate_memory, train_memory
from capo.cost.plan.notes import notes
from capo.cost.plan.wall_clock import StageTime, wall_clock, wall_clock_notes
from capo.cost.plan.work import PromptCounts, Stage, stages
from capo.prompts import load_prompts
from capo.prompts.benchmark_prompts import BENCHMARKS
from capo.prompts.prompt_checks import on_hub
from capo.recipe import PromptsSection, Recipe
from capo.recipe.plugins import PROMPT_SOURCES, plugins


@dataclass(frozen=True)
class Plan:
    """The cost of a recipe on one GPU, and its time on `gpus` of them."""

    recipe: str
    gpu: Gpu
    utilization: float
    """Share of the GPU's peak speed that all work is assumed to reach."""
    prompts: PromptCounts
    sampling: Sampling
    training: Training
    stages: list[Stage]
    memory: dict[str, dict[str, int]]
    """Bytes by part, for generating and for training; estimates."""
    disk: dict[str, float]
    """Bytes by artifact; estimates."""
    notes: list[str]
    gpus: int
    times: list[StageTime]
    """By stage, on `gpus` GPUs."""

    @property
    def wall_clock_hours(self) -> float:
        """Hours of all stages on `gpus` GPUs."""
        return sum(time.hours for time in self.times)

    @property
    def cost(self) -> float | None:
        """Price of all GPUs for that time; None without a price."""
        costs = [time.cost for time in self.times if time.cost is not None]
        return sum(costs) if costs else None

    @property
    def flops(self) -> int:
        """FLOPs of all stages."""
        return sum(stage.flops for stage in self.stages)

    @property
    def hours(self) -> float:
        """GPU hours of all stages."""
        return sum(stage.hours for stage in self.stages)


def plan_run(
    recipe: Recipe, gpu: str, utilization: float, *, gpus: int = 1, price: float | None = None
) -> Plan:
    """Compute the plan of a recipe on `gpus` GPUs at a `price` per GPU-hour; reads only configurations.

    Raises `ValueError` for an unknown GPU, a utilization outside (0, 1], less than one GPU, and a model whose
    configuration cannot be read or does not fit the recipe.
    """
    if not 0 < utilization <= 1:
        raise ValueError(f"--utilization: must be above 0 and at most 1, got {utilization}")
    chosen = find_gpu(gpu)
    validation = recipe.train.validation_prompts
    prompts = PromptCounts(
        train=None if recipe.images else _count(recipe.prompts, recipe.seed, "prompts"),
        validation=None
        if validation is None
        else _count(validation, recipe.seed, "train.validation_prompts"),
        evaluate=_count(recipe.evaluate.prompts, recipe.seed, "evaluate.prompts"),
        benchmarks=count_benchmarks(recipe),
    )
    sampling, training = count_sampling(recipe), count_training(recipe)
    memory = {
        "generate": generate_memory(recipe.generate, sampling),
        "train": train_memory(recipe, sampling, training),
    }
    work = stages(recipe, prompts, sampling, training, chosen, utilization)
    return Plan(
        recipe=recipe.name,
        gpu=chosen,
        utilization=utilization,
        prompts=prompts,
        sampling=sampling,
        training=training,
        stages=work,
        memory=memory,
        disk=disk(recipe, prompts, sampling, training),
        notes=[*notes(recipe, prompts, sampling, training, chosen, memory), *wall_clock_notes(gpus)],
        gpus=gpus,
        times=wall_clock(recipe, prompts, work, gpus, price),
    )


def _count(section: PromptsSection, seed: int, field: str) -> int | None:
    """Number of prompts; None if `count` is not set and they are on the Hub or not there yet."""
    if section.count is not None:
        return section.count
    kind, _, name = section.source.partition(":")
    place = Path(name if kind in BENCHMARKS else section.source)
    if on_hub(section) or (kind not in plugins(PROMPT_SOURCES) and not place.exists()):
        return None
    return len(load_prompts(section, seed, field))
