"""Contradictions between the fields and sections of a recipe."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from capo.recipe.plugins import PROMPT_SOURCES, plugins

if TYPE_CHECKING:
    from capo.recipe.sample_sections import PromptsSection
    from capo.recipe.sections import Recipe


BETWEEN = "\n  "
"""Separates contradictions in a message: each has a line of its own."""

BEGUN = ".inputs"
"""Suffix of the manifests of artifacts in progress, which no reward name may have."""


def contradictions(recipe: "Recipe") -> Iterator[str]:
    """Yield every contradiction as `field: what is wrong`."""
    yield from _images(recipe)
    yield from _adaptive_samples(recipe)
    yield from _rewards(recipe)
    yield from _pairs(recipe)
    yield from _training(recipe)
    yield from _adaptation(recipe)
    yield from _benchmarks(recipe)


def _images(recipe: "Recipe") -> Iterator[str]:
    """Existing images bring their own prompts, labels and samples."""
    source = recipe.prompts.source
    for field, section in _measured_on(recipe).items():
        if section.source == "images":
            yield (
                f"{field}.source: the model is trained on the images; choose other prompts to measure it, "
                "or write ./images for a folder of that name"
            )
    if recipe.images is None:
        if source == "images":
            yield "images: missing, but prompts.source is images; write ./images for a folder of that name"
        if recipe.pairs.selection == "labels" and recipe.pairs.people is None:
            yield "pairs.selection: labels need the section images, or pairs.people for a model's own samples"
        return
    if source != "images":
        yield f"prompts.source: must be images, whose captions are the prompts, not {source}"
    if recipe.start is not None:
        yield "start: a further round samples from a policy and cannot use the section images"
    if recipe.train.noise == "prior":
        yield "train.noise: prior is the noise that samples were generated from; existing images have none"
    if recipe.pairs.people is not None:
        yield "pairs.people: simulated people compare a model's own samples; images come with labels"
    for field in ("column", "where", "split", "revision"):
        if getattr(recipe.prompts, field) is not None:
            yield f"prompts.{field}: does not apply to the captions of images; use the section images"


def _adaptive_samples(recipe: "Recipe") -> Iterator[str]:
    adaptive, most = recipe.generate.adaptive, recipe.generate.samples_per_prompt
    if adaptive is None:
        return
    if adaptive.first > most:
        yield f"generate.adaptive.first: {adaptive.first} exceeds samples_per_prompt, which is {most}"
    if recipe.images is not None:
        yield "generate.adaptive: does not apply to existing images"
    if recipe.start is not None:
        yield "generate.adaptive: a further round takes the same number of samples for every prompt"
    if recipe.pairs.selection == "labels":
        yield "generate.adaptive: needs the scores of rewards, but pairs.selection is labels"


def _rewards(recipe: "Recipe") -> Iterator[str]:
    names = [reward.name for reward in recipe.rewards]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"rewards: the name {name!r} is repeated"
    for name in names:
        if name.endswith(BEGUN):
            yield f"rewards: {name!r} must not end in {BEGUN}, which the run directory reserves; rename it"
    if not recipe.training_rewards:
        yield "rewards: at least one needs use: train"


def _pairs(recipe: "Recipe") -> Iterator[str]:
    pairs, training = recipe.pairs, [reward.name for reward in recipe.training_rewards]
    if pairs.selection == "best-worst":
        if pairs.reward is None and len(training) > 1:
            yield "pairs.reward: best-worst needs the name of one reward"
        elif pairs.reward not in (None, *training):
            yield f"pairs.reward: {pairs.reward!r} is not a training reward ({', '.join(training)})"
    elif pairs.reward is not None:
        yield f"pairs.reward: applies only to best-worst, not to {pairs.selection}"
    if pairs.people is not None and pairs.selection != "labels":
        yield f"pairs.people: applies only to labels, not to {pairs.selection}"


def _training(recipe: "Recipe") -> Iterator[str]:
    if (recipe.train.dtype or recipe.model.dtype) == "float16":
        yield "train.dtype: gradients vanish in float16; set it to bfloat16 or float32"
    size, step = recipe.train.global_batch_size, recipe.train.per_device_batch_size
    if step is not None and size % step:
        yield f"train.per_device_batch_size: {step} does not divide global_batch_size {size}"
    if recipe.train.patience is not None and recipe.train.validation_prompts is None:
        yield "train.patience: counts validations; set train.validation_prompts"
    trained_on = recipe.prompts.source
    for field, section in _measured_on(recipe).items():
        if section.source == trained_on and trained_on.partition(":")[0] in plugins(PROMPT_SOURCES):
            yield f"{field}.source: the model is trained on {trained_on}; choose another set"


def _adaptation(recipe: "Recipe") -> Iterator[str]:
    train = recipe.train
    if train.adaptation == "full" and train.lora_dora:
        yield "train.lora_dora: applies only to adaptation lora"
    if train.adaptation == "lora":
        for field in ("reference_dtype", "reference_offload"):
            if getattr(train, field) != type(train).model_fields[field].default:
                yield f"train.{field}: applies only to adaptation full, which copies the reference"
    elif train.reference_dtype == "bfloat16" and (train.dtype or recipe.model.dtype) != "bfloat16":
        yield "train.reference_dtype: bfloat16 needs train.dtype bfloat16, or policy and reference differ"


def _benchmarks(recipe: "Recipe") -> Iterator[str]:
    names = [section.name for section in recipe.benchmarks]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"benchmarks: the name {name!r} is repeated"


def _measured_on(recipe: "Recipe") -> "dict[str, PromptsSection]":
    """The prompts on which the tuned model is measured, by field."""
    sections = {"evaluate.prompts": recipe.evaluate.prompts}
    if recipe.train.validation_prompts is not None:
        sections["train.validation_prompts"] = recipe.train.validation_prompts
    return sections
