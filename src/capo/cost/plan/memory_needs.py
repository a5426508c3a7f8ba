"""Estimate the peak memory of a GPU, by part.

Excludes torch's own context (about half a gigabyte) and fragmentation.
"""

from capo.cost.plan.counts import Sampling, Training, computing_dtype
from capo.recipe import GenerateSection, Recipe, TrainSection
from capo.recipe.train_section import SIZES

SPARE = 0.1
"""Share of a GPU's memory that is kept free for what the estimate excludes."""


def generate_memory(section: GenerateSection, sampling: Sampling) -> dict[str, int]:
    """Bytes by part for a batch of `generate.batch_size`, or of one image if it is not set."""
    images = section.batch_size or 1
    batch = f"sampling {images} image{'s' if images > 1 else ''}"
    return {**sampling.weights, batch: images * sampling.activations, "decoding 1 image": sampling.decoding}


def train_memory(recipe: Recipe, sampling: Sampling, training: Training) -> dict[str, int]:
    """Bytes by part for the pairs of one forward pass; only the last part depends on their number."""
    parts, section = train_weights(recipe, sampling, training), recipe.train
    pairs = section.per_device_batch_size or section.global_batch_size
    kept = (training.checkpointed if section.gradient_checkpointing else training.policy).bytes * pairs
    reference, name = training.reference.bytes * pairs, "reference's pass"
    if section.reference_offload and section.adaptation == "full":  # on the GPU only during its pass
        reference, name = reference + _reference(section, sampling), "reference and its pass"
    largest = "activations" if kept >= reference else name
    return {**parts, f"{largest}, {_count(pairs)}": max(kept, reference)}


def train_weights(recipe: Recipe, sampling: Sampling, training: Training) -> dict[str, int]:
    """Bytes by part that do not depend on the batch."""
    section, numbers, trained = recipe.train, sampling.parameters[sampling.denoiser], training.trained
    computing = computing_dtype(recipe)
    full = section.adaptation == "full"
    kept = "float32" if full or computing != recipe.model.dtype else recipe.model.dtype
    parts = {"denoiser": SIZES[kept] * numbers}
    if not full:
        parts["adapter"] = 4 * trained
    elif not section.reference_offload:
        parts["reference"] = _reference(section, sampling)
    if kept != computing:
        parts[f"{computing} copies of the weights"] = SIZES[computing] * numbers
    parts["gradients"] = 4 * trained
    parts["optimizer"] = section.moment_bytes * trained
    if section.ema_decay is not None:
        parts["moving average"] = 4 * trained
    if section.validation_prompts is not None:
        others = sum(size for name, size in sampling.weights.items() if name != sampling.denoiser)
        parts["text encoders and VAE, for validation"] = others
    return parts


def fitting_pairs(recipe: Recipe, sampling: Sampling, training: Training, memory: int) -> int:
    """The largest `train.per_device_batch_size` that divides the batch and should fit; 0 if none does."""
    size = recipe.train.global_batch_size
    for pairs in sorted((n for n in range(1, size + 1) if size % n == 0), reverse=True):
        changed = recipe.model_copy(
            update={"train": recipe.train.model_copy(update={"per_device_batch_size": pairs})}
        )
        if sum(train_memory(changed, sampling, training).values()) <= memory * (1 - SPARE):
            return pairs
    return 0


def _reference(section: TrainSection, sampling: Sampling) -> int:
    return SIZES[section.reference_dtype] * sampling.parameters[sampling.denoiser]


def _count(pairs: int) -> str:
    return f"{pairs} pair{'s' if pairs > 1 else ''}"
