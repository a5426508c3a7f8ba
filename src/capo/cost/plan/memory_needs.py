"""The most that a GPU has to hold, by what it is: an estimate.

Not in it: torch's own context (about half a gigabyte) and memory lost between allocations.
"""

from capo.cost.plan.counts import Sampling, Training, computing_dtype
from capo.recipe import Recipe

SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number."""

SPARE = 0.1
"""Of a GPU's memory, left for what is not in the estimate."""


def generate_memory(recipe: Recipe, sampling: Sampling) -> dict[str, int]:
    """Bytes by part, for a batch of `generate.batch_size`, or of one image where it is to be found."""
    images = recipe.generate.batch_size or 1
    batch = f"sampling {images} image{'s' if images > 1 else ''}"
    return {**sampling.weights, batch: images * sampling.activations, "decoding 1 image": sampling.decoding}


def train_memory(recipe: Recipe, sampling: Sampling, training: Training) -> dict[str, int]:
    """Bytes by part, for the pairs of a forward pass; the last part is what grows with them."""
    parts, section = train_weights(recipe, sampling, training), recipe.train
    pairs = section.per_device_batch_size or section.global_batch_size
    kept = (training.checkpointed if section.gradient_checkpointing else training.policy).bytes * pairs
    asked = training.reference.bytes * pairs
    what = "reference's pass"
    if section.reference_offload and section.adaptation == "full":  # on the GPU in its pass only
        asked += _reference(recipe, sampling)
        what = "reference and its pass"
    most = f"activations, {_count(pairs)}" if kept >= asked else f"{what}, {_count(pairs)}"
    return {**parts, most: max(kept, asked)}


def train_weights(recipe: Recipe, sampling: Sampling, training: Training) -> dict[str, int]:
    """Bytes by part that training holds whatever the batch."""
    section, numbers, trained = recipe.train, sampling.parameters[sampling.denoiser], training.trained
    computing = computing_dtype(recipe)
    full = section.adaptation == "full"
    kept = "float32" if full or computing != recipe.model.dtype else recipe.model.dtype
    parts = {"denoiser": SIZES[kept] * numbers}
    if not full:
        parts["adapter"] = 4 * trained
    elif not section.reference_offload:
        parts["reference"] = _reference(recipe, sampling)
    if kept != computing:
        parts[f"{computing} copies of the weights"] = SIZES[computing] * numbers
    parts["gradients"] = 4 * trained
    parts["optimizer"] = moment_bytes(recipe) * trained
    if section.ema_decay is not None:
        parts["moving average"] = 4 * trained
    if section.validation_prompts is not None:
        others = sum(size for name, size in sampling.weights.items() if name != sampling.denoiser)
        parts["text encoders and VAE, for validation"] = others
    return parts


def moment_bytes(recipe: Recipe) -> int:
    """Of what the optimizer remembers of a parameter."""
    return 8 if recipe.train.optimizer == "adamw" else 2


def fitting_pairs(recipe: Recipe, sampling: Sampling, training: Training, memory: int) -> int:
    """The largest `train.per_device_batch_size` that divides the batch and should fit; 0 when none does."""
    size = recipe.train.global_batch_size
    for pairs in sorted((n for n in range(1, size + 1) if size % n == 0), reverse=True):
        changed = recipe.model_copy(
            update={"train": recipe.train.model_copy(update={"per_device_batch_size": pairs})}
        )
        if sum(train_memory(changed, sampling, training).values()) <= memory * (1 - SPARE):
            return pairs
    return 0


def _reference(recipe: Recipe, sampling: Sampling) -> int:
    return SIZES[recipe.train.reference_dtype] * sampling.parameters[sampling.denoiser]


def _count(pairs: int) -> str:
    return f"{pairs} pair{'s' if pairs > 1 else ''}"
