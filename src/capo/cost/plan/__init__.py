"""What a recipe will cost, before anything runs: work and hours by stage, memory by part, disk.

FLOPs are counted on the recipe's own model at its real size, without its weights. Hours follow from
them, from what a GPU can do at most, and from the share of that which is assumed to be reached.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from capo.prompts import load_prompts
from capo.recipe import PromptsSection, Recipe
from capo.recipe.plugins import PROMPT_SOURCES, plugins

if TYPE_CHECKING:
    from capo.cost.plan.counts import Sampling, Training
    from capo.cost.plan.gpus import Gpu
    from capo.cost.plan.work import Stage


@dataclass(frozen=True)
class Plan:
    """The costs of a recipe on one GPU."""

    recipe: str
    gpu: "Gpu"
    utilisation: float
    """Share of the GPU's peak that all work is assumed to reach."""
    sampling: "Sampling"
    training: "Training"
    stages: "list[Stage]"
    memory: dict[str, dict[str, int]]
    """Bytes by part while generating and training; estimates."""
    disk: dict[str, float]
    """Bytes by artifact; estimates."""
    notes: list[str]


def plan_run(recipe: Recipe, gpu: str, utilisation: float) -> Plan:
    """The plan of a recipe; reads configurations only.

    Raises `ValueError` for an unknown GPU, a utilisation outside (0, 1], and a model whose
    configuration cannot be read or does not fit the recipe.
    """
    from capo.cost.plan.counts import count_sampling, count_training
    from capo.cost.plan.disk import disk
    from capo.cost.plan.gpus import find_gpu
    from capo.cost.plan.memory_needs import generate_memory, train_memory
    from capo.cost.plan.notes import notes
    from capo.cost.plan.work import Prompts, stages

    if not 0 < utilisation <= 1:
        raise ValueError(f"--utilisation: {utilisation} is no share; give a number above 0, at most 1")
    chosen = find_gpu(gpu)
    validation = recipe.train.validation_prompts
    prompts = Prompts(
        train=None if recipe.images else _number(recipe.prompts, recipe.seed, "prompts"),
        validation=None
        if validation is None
        else _number(validation, recipe.seed, "train.validation_prompts"),
        evaluate=_number(recipe.evaluate.prompts, recipe.seed, "evaluate.prompts"),
    )
    sampling, training = count_sampling(recipe), count_training(recipe)
    memory = {
        "generate": generate_memory(recipe, sampling),
        "train": train_memory(recipe, sampling, training),
    }
    return Plan(
        recipe=recipe.name,
        gpu=chosen,
        utilisation=utilisation,
        sampling=sampling,
        training=training,
        stages=stages(recipe, prompts, sampling, training, chosen, utilisation),
        memory=memory,
        disk=disk(recipe, prompts, sampling, training),
        notes=notes(recipe, prompts, sampling, training, chosen, memory),
    )


def _number(section: PromptsSection, seed: int, field: str) -> int | None:
    """How many prompts there are; None for a file that is not there and of which no `count` is asked."""
    if section.count is not None:
        return section.count
    if section.source.partition(":")[0] not in plugins(PROMPT_SOURCES) and not Path(section.source).is_file():
        return None
    return len(load_prompts(section, seed, field))
