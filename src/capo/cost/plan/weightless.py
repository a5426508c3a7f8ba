"""Build a recipe's model at its real size without weights, on torch's `meta` device, using no memory."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from capo.cost.checkpoints import write_checkpoint
from capo.diffusion import load_family, resolve_checkpoint
from capo.diffusion.configuration_files import configuration_folder
from capo.diffusion.family import Family
from capo.diffusion.random_weights import NoValues, RandomWeights
from capo.diffusion.single_file import configuration, is_single_file
from capo.recipe import ModelSection
from capo.recipe.hub_id import split_revision

META = torch.device("meta")

PUBLISHED = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "sd15",
    "runwayml/stable-diffusion-v1-5": "sd15",
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
    "stabilityai/stable-diffusion-3-medium-diffusers": "sd3",
    "stabilityai/stable-diffusion-3.5-medium": "sd35",
    "stabilityai/stable-diffusion-3.5-large": "sd35-large",
    "black-forest-labs/FLUX.1-dev": "flux",
    "black-forest-labs/FLUX.2-dev": "flux2",
    "black-forest-labs/FLUX.2-klein-base-4B": "flux2-klein-4b",
    "black-forest-labs/FLUX.2-klein-base-9B": "flux2-klein-9b",
    "Qwen/Qwen-Image": "qwen-image",
    "Tongyi-MAI/Z-Image": "z-image",
    "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS": "pixart-sigma",
}
"""Hub ids whose configurations are in `capo.diffusion.architectures`; these need no network."""


@contextmanager
def weightless(section: ModelSection) -> Iterator[Family]:
    """Yield the family of `section` with all parts on the `meta` device; results have shapes but no values.

    Raises `ValueError` if the configuration of the checkpoint cannot be read.
    """
    temporary = tempfile.TemporaryDirectory(prefix="capo-plan-")
    with temporary as folder, NoValues(), _attention_of_gpus():
        path = _configuration(section, Path(folder))
        # Settings of how to compute are left out: they need a device and change no count.
        kept = {name: getattr(section, name) for name in ("dtype", "max_sequence_length")}
        yield load_family(ModelSection(checkpoint=path, **kept), META, RandomWeights(META))


def _configuration(section: ModelSection, folder: Path) -> str:
    """Return a directory with the configurations of the checkpoint."""
    path = resolve_checkpoint(section.checkpoint)
    if is_single_file(path):
        path, _ = split_revision(configuration(section, path))
    if Path(path).is_dir():
        return path
    if path in PUBLISHED:
        return str(write_checkpoint(PUBLISHED[path], folder))
    try:
        return str(configuration_folder(section))
    except ValueError as error:
        known = ", ".join(PUBLISHED)
        raise ValueError(f"{error}. A checkpoint that needs no download: {known}") from error


@contextmanager
def _attention_of_gpus() -> Iterator[None]:
    """Use the flash-attention kernel on `meta`, as a GPU would; it never holds the full score matrix.

    By default torch decomposes attention there. The function is replaced because a torch function mode does
    not reach forward passes that are recomputed during the backward pass.
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
        # A mask does not reduce the work.
        return flash(query, key, value, dropout_p, is_causal, scale=settings.get("scale"))[0]

    functional.scaled_dot_product_attention = attention  # type: ignore[assignment]
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = plain
