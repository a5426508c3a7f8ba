"""What a plan has to say besides its numbers: what is not in them, and what will not fit."""

from collections.abc import Mapping

from capo.cost.plan.counts import Sampling, Training
from capo.cost.plan.gpus import GIB, Gpu
from capo.cost.plan.memory_needs import SPARE, fitting_pairs
from capo.cost.plan.work import Prompts, not_counted
from capo.recipe import Recipe


def notes(
    recipe: Recipe,
    prompts: Prompts,
    sampling: Sampling,
    training: Training,
    gpu: Gpu,
    memory: Mapping[str, Mapping[str, int]],
) -> list[str]:
    """A sentence each."""
    found = [*_unknown_prompts(recipe, prompts)]
    if recipe.images is not None:
        found.append(
            f"Not in it: taking over the images of {recipe.images.source}, which the VAE encodes and the "
            "rewards score."
        )
    if recipe.generate.adaptive is not None:
        first, most = recipe.generate.adaptive.first, recipe.generate.samples_per_prompt
        found.append(
            f"A prompt gets {first} to {most} samples; the hours and sizes of samples and scores are those "
            f"of {most}. The training rewards score while samples are made, beside the model."
        )
    if unknown := not_counted(recipe.rewards):
        found.append(
            f"Not in it: the work of the rewards {', '.join(unknown)}, whose size is not known here."
        )
    room, whole = gpu.memory * (1 - SPARE), f"the {gpu.memory / GIB:.0f} GiB of the {gpu.name}"
    if sum(memory["generate"].values()) > room:
        found.append(f"Generating may not fit into {whole}.")
    pairs = recipe.train.per_device_batch_size or recipe.train.global_batch_size
    fitting = fitting_pairs(recipe, sampling, training, gpu.memory)
    if fitting == 0:
        found.append(f"Training does not fit into {whole}: {_smaller(recipe)}.")
    elif fitting < pairs:
        found.append(f"Training does not fit into {whole}; train.per_device_batch_size={fitting} should.")
    return found


def _unknown_prompts(recipe: Recipe, prompts: Prompts) -> list[str]:
    sections = {
        "prompts": (recipe.prompts, prompts.train),
        "train.validation_prompts": (recipe.train.validation_prompts, prompts.validation),
        "evaluate.prompts": (recipe.evaluate.prompts, prompts.evaluate),
    }
    if recipe.images is not None:
        del sections["prompts"]  # they come with the images
    return [
        f"Not in it: what is made for {field}, as {section.source} is not there; set {field}.count."
        for field, (section, number) in sections.items()
        if section is not None and number is None
    ]


def _smaller(recipe: Recipe) -> str:
    """What makes training take less, of that which is not set yet."""
    section = recipe.train
    ways = {
        "train.gradient_checkpointing=true": not section.gradient_checkpointing,
        "train.reference_offload=true": section.adaptation == "full" and not section.reference_offload,
        "train.optimizer=adamw-8bit": section.adaptation == "full" and section.optimizer == "adamw",
        "train.adaptation=lora": section.adaptation == "full",
        "train.sharding=fsdp on several GPUs": section.sharding != "fsdp",
    }
    return "set " + ", or ".join(way for way, open_yet in ways.items() if open_yet)
