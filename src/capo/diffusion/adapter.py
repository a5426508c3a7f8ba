"""The low-rank adapter of a denoiser (LoRA or DoRA), built by peft."""

from typing import Any

import torch
from diffusers.loaders import PeftAdapterMixin
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import nn

from capo.engine.seeds import stable_seed
from capo.recipe import TrainSection
from capo.recipe.hints import nearest

ADAPTER = "default"
"""The name that peft and diffusers give an unnamed adapter."""


def add_adapter(denoiser: Any, section: TrainSection, seed: int) -> list[LoraLayer]:
    """Add a trainable float32 adapter to `denoiser` that changes no output yet; return its layers.

    Raises `ValueError` for targets that the denoiser does not have.
    """
    check_targets(denoiser, section.lora_targets)
    denoiser.add_adapter(
        LoraConfig(
            r=section.lora_rank,
            lora_alpha=section.lora_alpha or section.lora_rank,
            target_modules=list(section.lora_targets),
            use_dora=section.lora_dora,
        )
    )
    for name, parameter in denoiser.named_parameters():
        if not parameter.requires_grad:
            continue
        parameter.data = parameter.data.float()
        if ".lora_A." in name:
            # peft's own initialization, but as a function of the seed and the name alone.
            generator = torch.Generator().manual_seed(stable_seed("lora", seed, name))
            start = torch.empty(parameter.shape)
            nn.init.kaiming_uniform_(start, a=5**0.5, generator=generator)
            parameter.data.copy_(start)
    layers = [module for module in denoiser.modules() if isinstance(module, LoraLayer)]
    if section.lora_dora:
        for layer in layers:
            _measure_magnitude(layer)
    return layers


def _measure_magnitude(layer: Any) -> None:
    """Recompute DoRA's magnitudes in float32; peft computes them in the precision of the base.

    The forward pass divides them by norms in float32, and only equal ones leave the base unchanged.
    """
    layer.lora_magnitude_vector[ADAPTER].update_layer(
        base_layer=layer.get_base_layer(),
        lora_A=layer.lora_A[ADAPTER].weight,
        lora_B=layer.lora_B[ADAPTER].weight,
        scaling=layer.scaling[ADAPTER],
    )


def check_targets(denoiser: nn.Module, targets: tuple[str, ...]) -> None:
    """Raise `ValueError` for a target without a match, which peft skips as long as another target matches.

    Also for a denoiser for which diffusers has no adapters.
    """
    if not isinstance(denoiser, PeftAdapterMixin):
        raise ValueError(
            f"train.adaptation: diffusers has no LoRA for a {type(denoiser).__name__}; set it to full"
        )
    names = [name for name, module in denoiser.named_modules() if not list(module.children())]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            suffixes = {name.rpartition(".")[2] for name in names}
            raise ValueError(
                f"train.lora_targets: {target!r} matches no module of the denoiser{nearest(target, suffixes)}"
            )
