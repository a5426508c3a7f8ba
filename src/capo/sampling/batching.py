"""The number of images sampled at once: the one in the recipe, or as many as fit into memory."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from capo.engine.memory import main_memory, release_memory
from capo.engine.progress import say
from capo.recipe import GenerateSection

if TYPE_CHECKING:
    from torch import Tensor

    from capo.diffusion.family import Family

MOST_POSITIONS = 1 << 18
"""The most latent positions (pixels of latents) in a batch: 16 images of 1024², 64 of 512². More only take
more memory."""

BYTES_A_POSITION = 80 * 1024
"""An upper bound of the memory that sampling on a CPU takes per latent position. In float32 with guidance
`capo plan` counts 39 KiB for SDXL, 40 for SD3, 51 for FLUX.1-dev, 63 for SD3.5-large, and 65 for SD 1.5."""

_fitting: "WeakKeyDictionary[Family, int]" = WeakKeyDictionary()
"""The batch size that fit, for the next time the same model makes images."""


def in_batches(
    rows: int, family: "Family", settings: GenerateSection, sample: "Callable[[range], Tensor]"
) -> "Iterator[Tensor]":
    """Call `sample` on consecutive batches of the row numbers below `rows`, and yield what it returns.

    Without `generate.batch_size`, a batch that does not fit into an accelerator's memory is halved and
    retried, and later batches keep the smaller size. Raises `RuntimeError` when the size in the recipe, or a
    single image, does not fit.
    """
    import torch

    start = 0
    while start < rows:
        size = batch_size(family, settings)
        batch = range(start, min(start + size, rows))
        latents = None
        try:
            latents = sample(batch)
        except torch.OutOfMemoryError as error:
            if settings.batch_size is not None or len(batch) == 1:
                raise _too_large(len(batch), settings) from error
        if latents is None:  # outside the handler, whose exception holds the tensors of the failed attempt
            release_memory()
            _fitting[family] = len(batch) // 2
            say(f"{len(batch)} images at once do not fit into memory; continuing with {len(batch) // 2}")
            continue
        yield latents
        start = batch.stop


def batch_size(family: "Family", settings: GenerateSection) -> int:
    """Return the number of images of the next batch, unless fewer are left."""
    return settings.batch_size or _fitting.get(family) or _first_try(family, settings)


def _first_try(family: "Family", settings: GenerateSection) -> int:
    """The largest batch worth trying; on a CPU, where too large a batch swaps, one that certainly fits.

    It depends on the machine's total memory, not on what is free now: two runs on one machine make the same
    batches, and so the same bits.
    """
    _, height, width = family.latent_shape(settings)
    positions = MOST_POSITIONS
    if family.device.type == "cpu":
        positions = min(positions, main_memory() // 2 // BYTES_A_POSITION)
    return max(1, positions // (height * width))


def _too_large(images: int, settings: GenerateSection) -> RuntimeError:
    if images > 1:
        return RuntimeError(
            f"the device ran out of memory with generate.batch_size {settings.batch_size}; lower it, "
            "or set it to null to try smaller sizes, and rerun the same command to resume"
        )
    return RuntimeError(
        "the device ran out of memory with a single image; lower generate.height and generate.width, or set "
        "model.dtype to bfloat16"
    )
