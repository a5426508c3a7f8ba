"""Where the sections of a recipe contradict each other."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from capo.recipe.plugins import PROMPT_SOURCES, plugins

if TYPE_CHECKING:
    from capo.recipe.sections import PromptsSection, Recipe


BEGUN = ".inputs"
"""Ends the names of manifests of what is begun."""


def contradictions(recipe: "Recipe") -> Iterator[str]:
    """Every one, each with its field and what is wrong."""
    yield from _of_images(recipe)
    yield from _of_adaptive(recipe)
    yield from _of_rewards(recipe)
    yield from _of_training(recipe)
    yield from _of_adaptation(recipe)


def _of_images(recipe: "Recipe") -> Iterator[str]:
    captions = recipe.prompts.source == "images"
    if recipe.images is None:
        if captions:
            yield "images: missing, though prompts.source is images"
        if recipe.pairs.selection == "labels" and recipe.pairs.people is None:
            yield "pairs.selection: labels come with images; a model's own samples need pairs.people"
    else:
        if recipe.start is not None:
            yield "start: a further round makes its samples from a policy; it takes no images"
        if not captions:
            yield f"prompts.source: with images, the prompts are their captions; not {recipe.prompts.source}"
        if recipe.train.noise == "prior":
            yield "train.noise: prior is what a model made its samples from; images come without it"
        if recipe.pairs.people is not None:
            yield "pairs.people: they compare a model's own samples; images come with labels"
        for field in ("column", "where", "split", "revision"):
            if getattr(recipe.prompts, field) is not None:
                yield f"prompts.{field}: the captions of images are what the section images says"
    for field, section in _measured_on(recipe).items():
        if section.source == "images":
            yield f"{field}.source: images are what the model is trained on; name other prompts"


def _of_adaptive(recipe: "Recipe") -> Iterator[str]:
    adaptive, most = recipe.generate.adaptive, recipe.generate.samples_per_prompt
    if adaptive is None:
        return
    if adaptive.first > most:
        yield f"generate.adaptive.first: {adaptive.first} is more than samples_per_prompt {most}, the most"
    if recipe.images is not None:
        yield "generate.adaptive: images are there already; there are none to spare"
    if recipe.start is not None:
        yield "generate.adaptive: a further round takes as many samples of every prompt"
    if recipe.pairs.selection == "labels":
        yield "generate.adaptive: rewards say when samples are enough, labels come later"


def _of_rewards(recipe: "Recipe") -> Iterator[str]:
    names = [r.name for r in recipe.rewards]
    for name in sorted({n for n in names if names.count(n) > 1}):
        yield f"rewards: {name!r} is there more than once"
    for name in names:
        if name.endswith(BEGUN):
            yield f"rewards: {name!r} ends in {BEGUN}, as a run calls what scores are made from; rename it"
    training = [r.name for r in recipe.training_rewards]
    if not training:
        yield "rewards: at least one needs use: train"
    pairs = recipe.pairs
    if pairs.selection == "best-worst":
        if pairs.reward is None and len(training) > 1:
            yield "pairs.reward: best-worst needs the name of one reward"
        elif pairs.reward not in (None, *training):
            yield f"pairs.reward: {pairs.reward!r} is no training reward ({', '.join(training)})"
    elif pairs.reward is not None:
        yield f"pairs.reward: only best-worst reads it, not {pairs.selection}"
    if pairs.people is not None and pairs.selection != "labels":
        yield f"pairs.people: only labels reads it, not {pairs.selection}"


def _of_training(recipe: "Recipe") -> Iterator[str]:
    if (recipe.train.dtype or recipe.model.dtype) == "float16":
        yield "train.dtype: gradients vanish in float16; take bfloat16 or float32"
    size, step = recipe.train.global_batch_size, recipe.train.per_device_batch_size
    if step is not None and size % step:
        yield f"train.per_device_batch_size: {step} does not divide global_batch_size {size}"
    trained_on = recipe.prompts.source
    for field, section in _measured_on(recipe).items():
        if section.source == trained_on and trained_on.partition(":")[0] in plugins(PROMPT_SOURCES):
            yield f"{field}.source: {trained_on} is what the model is trained on; take another split"


def _of_adaptation(recipe: "Recipe") -> Iterator[str]:
    train = recipe.train
    if train.adaptation == "full" and train.lora_dora:
        yield "train.lora_dora: only adaptation lora has it"
    if train.adaptation == "lora":
        for field in ("reference_dtype", "reference_offload"):
            if getattr(train, field) != type(train).model_fields[field].default:
                yield f"train.{field}: only full fine-tuning has a copy; LoRA's reference is its base"
    elif train.reference_dtype == "bfloat16" and (train.dtype or recipe.model.dtype) != "bfloat16":
        yield "train.reference_dtype: bfloat16 differs from the policy unless train.dtype is bfloat16"


def _measured_on(recipe: "Recipe") -> "dict[str, PromptsSection]":
    """The prompts that the tuned model is measured on."""
    validation = recipe.train.validation_prompts
    found = {} if validation is None else {"train.validation_prompts": validation}
    return found | {"evaluate.prompts": recipe.evaluate.prompts}
