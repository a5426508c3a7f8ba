"""Remarks on a plan: what its numbers exclude, and what does not fit on the GPU."""

from collections.abc import Iterator, Mapping

from capo.cost.gpus import GIB, Gpu
from capo.cost.plan.counts import Sampling, Training
from capo.cost.plan.memory_needs import SPARE, fitting_pairs
from capo.cost.plan.work import PromptCounts, uncounted_rewards
from capo.recipe import Recipe, TrainSection

Memory = Mapping[str, Mapping[str, int]]
"""Bytes by stage and part."""


def notes(
    recipe: Recipe, prompts: PromptCounts, sampling: Sampling, training: Training, gpu: Gpu, memory: Memory
) -> list[str]:
    """Return the remarks, one sentence or two each."""
    fitting = fitting_pairs(recipe, sampling, training, gpu.memory)
    return [*_excluded(recipe, prompts), *_overflows(recipe, gpu, memory, fitting)]


def _excluded(recipe: Recipe, prompts: PromptCounts) -> Iterator[str]:
    sections = {
        "prompts": (recipe.prompts, prompts.train),
        "train.validation_prompts": (recipe.train.validation_prompts, prompts.validation),
        "evaluate.prompts": (recipe.evaluate.prompts, prompts.evaluate),
    }
    if recipe.images is not None:
        del sections["prompts"]  # the prompts come with the images
    for field, (section, number) in sections.items():
        if section is not None and number is None:
            yield f"Excludes all work on {field}: {section.source} cannot be counted here. Set {field}.count."
    if recipe.images is not None:
        yield f"Excludes encoding and scoring the images of {recipe.images.source}."
    if recipe.generate.adaptive is not None:
        first, most = recipe.generate.adaptive.first, recipe.generate.samples_per_prompt
        yield (
            f"Adaptive sampling makes {first} to {most} samples per prompt. Hours and sizes of samples and "
            f"scores assume {most}. The training rewards are loaded together with the model while sampling."
        )
    yield from _judging(recipe, prompts)
    if unknown := uncounted_rewards(recipe.rewards):
        yield f"Excludes rewards of unknown size: {', '.join(unknown)}."


def _judging(recipe: Recipe, prompts: PromptCounts) -> Iterator[str]:
    counted = {count.name: count for count in prompts.benchmarks}
    for section in recipe.benchmarks:
        if (count := counted.get(section.name)) is None:
            yield f"Excludes all work on {section.field}: `capo check` says why it cannot be counted."
        else:
            judged = f"{count.judged_images:,} images of {count.name}"
            yield f"Excludes judging {judged} by {count.judge}; `capo rehearse` measures it."


def _overflows(recipe: Recipe, gpu: Gpu, memory: Memory, fitting: int) -> Iterator[str]:
    capacity = f"{gpu.memory / GIB:.0f} GiB of the {gpu.name}"
    if sum(memory["generate"].values()) > gpu.memory * (1 - SPARE):
        yield f"Generating may not fit in the {capacity}."
    pairs = recipe.train.per_device_batch_size or recipe.train.global_batch_size
    if fitting == 0:
        ways = _ways_to_save(recipe.train)
        advice = f"Set {ways}." if ways else "Choose a GPU with more memory."
        yield f"Training does not fit in the {capacity}. {advice}"
    elif fitting < pairs:
        yield f"Training does not fit in the {capacity}. Set train.per_device_batch_size={fitting}."


def _ways_to_save(section: TrainSection) -> str:
    """Settings that reduce the memory of training and are not in use yet."""
    ways = {
        "train.gradient_checkpointing=true": not section.gradient_checkpointing,
        "train.reference_offload=true": section.adaptation == "full" and not section.reference_offload,
        "train.optimizer=adamw-8bit": section.adaptation == "full" and section.optimizer == "adamw",
        "train.adaptation=lora": section.adaptation == "full",
        "train.sharding=fsdp on several GPUs": section.sharding != "fsdp",
    }
    return ", or ".join(way for way, available in ways.items() if available)
