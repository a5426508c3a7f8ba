"""How a denoiser computes: attention backend, memory layout, and compilation."""

from typing import Any

import torch
from diffusers import UNet2DConditionModel

from capo.pretrained.model_loading import quiet
from capo.recipe import ModelSection


def arrange(denoiser: Any, section: ModelSection) -> None:
    """Apply `model.attention`, `model.channels_last` and `model.compile` to `denoiser`, in place.

    Raises `ValueError` for a backend that is unknown, not installed, or without effect on this denoiser, and
    for a memory layout that does not fit it.
    """
    if section.attention is not None:
        _set_attention(denoiser, section.attention)
    if section.channels_last:
        if not isinstance(denoiser, UNet2DConditionModel):
            raise ValueError(
                f"model.channels_last: a {type(denoiser).__name__} has no such layout, only UNets do; set it "
                "to false"
            )
        denoiser.to(memory_format=torch.channels_last)
    if section.compile:
        denoiser.compile()


def _set_attention(denoiser: Any, backend: str) -> None:
    processors = [getattr(module, "processor", None) for module in denoiser.modules()]
    if not any(hasattr(processor, "_attention_backend") for processor in processors):
        raise ValueError(
            f"model.attention: {backend!r} has no effect on a {type(denoiser).__name__}, whose attention "
            "has no backends; remove this field"
        )
    try:
        with quiet():  # it logs that it is experimental
            denoiser.set_attention_backend(backend)
    except (ImportError, RuntimeError, ValueError) as error:
        raise ValueError(f"model.attention: {backend!r} cannot be used here: {error}") from error
