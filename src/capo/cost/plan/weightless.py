"""A recipe's model at its real size without its weights: on torch's `meta` device, in no memory."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from capo.cost.bench.checkpoints import write_checkpoint
from capo.cost.bench.peak_memory import made_bytes
from capo.diffusion import load_family, resolve_checkpoint
from capo.diffusion.family import Family
from capo.diffusion.random_weights import RandomWeights
from capo.recipe import ModelSection

META = torch.device("meta")

PUBLISHED = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd15",
    "runwayml/stable-diffusion-v1-5": "sd15",
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
    "stabilityai/stable-diffusion-3-medium-diffusers": "sd3",
    "stabilityai/stable-diffusion-3.5-medium": "sd35",
    "stabilityai/stable-diffusion-3.5-large": "sd35-large",
    "black-forest-labs/FLUX.1-dev": "flux",
}
"""Hub ids whose configurations are in `capo.diffusion.architectures`: these are never asked for."""

SMALL_FILES = ("*.json", "*.txt", "*.model")
"""Configurations and tokenizers: all that is fetched of other Hub ids."""


@contextmanager
def weightless(section: ModelSection) -> Iterator[Family]:
    """The family of `section`, every part on the `meta` device; answers have shapes and no values.

    Raises `ValueError` for a checkpoint whose configuration cannot be read from here.
    """
    temporary = tempfile.TemporaryDirectory(prefix="capo-plan-")
    with temporary as folder, _NoCopies(), _attention_of_gpus():
        path = _configuration(section, Path(folder))
        # How it is computed changes nothing that is counted, and wants a device.
        yield load_family(ModelSection(checkpoint=path, dtype=section.dtype), META, RandomWeights(META))


@dataclass(frozen=True)
class Count:
    """What some work on the `meta` device takes."""

    flops: int
    """Of its matrix products, convolutions and attention; a multiplication and its addition are two."""
    bytes: int
    """The most that tensors made by it hold at once."""


def count(work: Callable[[], object]) -> Count:
    """Do the work, which costs next to nothing on `meta`, and count.

    Twice, since the counter of FLOPs keeps tensors that would be freed.
    """
    with FlopCounterMode(display=False) as counter:
        work()
    return Count(int(counter.get_total_flops()), made_bytes(work, META))


def _configuration(section: ModelSection, folder: Path) -> str:
    """A directory with the configurations of the checkpoint."""
    path = resolve_checkpoint(section.checkpoint)
    if Path(path).is_dir():
        return path
    if path in PUBLISHED:
        return str(write_checkpoint(PUBLISHED[path], folder))
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(path, revision=section.revision, allow_patterns=list(SMALL_FILES))
    except (OSError, ValueError) as error:
        known = ", ".join(PUBLISHED)
        raise ValueError(
            f"model.checkpoint: the configuration of {path!r} cannot be read from here ({error}); give a "
            f"diffusers directory, or one of those known without asking: {known}"
        ) from error


class _NoCopies(TorchFunctionMode):
    """Leaves what is on `meta` there, as there is nothing to copy to main memory."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is Tensor.cpu and args[0].is_meta:
            return args[0]
        return function(*args, **(kwargs or {}))


@contextmanager
def _attention_of_gpus() -> Iterator[None]:
    """Within, attention on `meta` is the kernel of GPUs, which never holds the matrix of all scores.

    torch would take it apart there. Its function is replaced, since a mode does not reach into the
    forward passes that are done again during a backward one.
    """
    plain: Any = functional.scaled_dot_product_attention

    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **settings: Any,
    ) -> Tensor:
        if not query.is_meta or settings.get("enable_gqa"):
            return plain(query, key, value, attn_mask, dropout_p, is_causal, **settings)
        flash: Any = torch.ops.aten._scaled_dot_product_flash_attention
        # A mask makes no work less.
        return flash(query, key, value, dropout_p, is_causal, scale=settings.get("scale"))[0]

    functional.scaled_dot_product_attention = attention  # type: ignore[assignment]
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = plain
