"""LoRA files for ComfyUI, kohya's scripts, and what else reads kohya's format.

    MODULE.lora_down.weight, MODULE.lora_up.weight, MODULE.alpha      ΔW = alpha / rank · up · down
    MODULE.dora_scale                                                 only of a DoRA

MODULE is `lora_unet_` and the module's name in the original layout, with underscores. Projections that the
original fuses, such as Q, K and V, become one update whose rank is the sum of theirs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor

from capo.diffusion.original_layout import unet_blocks, unet_name
from capo.diffusion.sharding import whole

KOHYA = "kohya.safetensors"
"""The name of this file in a policy's folder."""

_QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
_ADDED_QKV = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")

FLUX_DOUBLE = {
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
    "img_attn.qkv": _QKV,
    "txt_attn.qkv": _ADDED_QKV,
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}
FLUX_SINGLE = {
    "linear1": (*_QKV, "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.lin": ("norm.linear",),
}
SD3_BLOCK = {
    "x_block.attn.qkv": _QKV,
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "context_block.attn.qkv": _ADDED_QKV,
    "x_block.attn.proj": ("attn.to_out.0",),
    "x_block.attn2.proj": ("attn2.to_out.0",),
    "context_block.attn.proj": ("attn.to_add_out",),
    "x_block.mlp.fc1": ("ff.net.0.proj",),
    "x_block.mlp.fc2": ("ff.net.2",),
    "context_block.mlp.fc1": ("ff_context.net.0.proj",),
    "context_block.mlp.fc2": ("ff_context.net.2",),
    "x_block.adaLN_modulation.1": ("norm1.linear",),
}
"""Modules of a block in the original layout → those of diffusers, whose rows follow each other there."""

BLOCKS = {
    "FluxTransformer2DModel": {
        "transformer_blocks": ("double_blocks", FLUX_DOUBLE),
        "single_transformer_blocks": ("single_blocks", FLUX_SINGLE),
    },
    "SD3Transformer2DModel": {"transformer_blocks": ("joint_blocks", SD3_BLOCK)},
}
"""Class of the denoiser → names of its lists of blocks → their original names and modules."""


@dataclass(frozen=True)
class Update:
    """The adapter of one module: ΔW = up · down, or what a DoRA makes of it."""

    down: Tensor
    up: Tensor
    norms: Tensor | None = None
    """Of a DoRA, per row: its magnitude times ‖W‖ / ‖W + ΔW‖."""


def write_kohya(denoiser: Any, path: Path | None) -> bool:
    """Write the adapter of `denoiser` to `path`; report whether the format can express it.

    It cannot for classes without an original layout here, and for modules outside their blocks. Processes
    that share the weights all call this; those that write nothing pass no path.
    """
    layers = {name: module for name, module in denoiser.named_modules() if isinstance(module, LoraLayer)}
    return write_updates(denoiser, {name: _update(layer) for name, layer in layers.items()}, path)


def write_updates(denoiser: Any, updates: Mapping[str, Update], path: Path | None) -> bool:
    """Write updates by the name of their module in `denoiser`, like `write_kohya`.

    The denoiser needs no values, unless an update is a DoRA.
    """
    places = _places(denoiser, list(updates))
    if places is None:
        return False
    tensors: dict[str, Tensor] = {}
    for place, modules in places.items():
        parts = [(module, updates.get(module)) for module in modules]
        merged = _fused(denoiser, parts) if len(parts) > 1 else updates[modules[0]]
        name = f"lora_unet_{place.replace('.', '_')}"
        tensors[f"{name}.lora_down.weight"] = merged.down
        tensors[f"{name}.lora_up.weight"] = merged.up
        tensors[f"{name}.alpha"] = torch.tensor(float(len(merged.down)))
        if merged.norms is not None:
            shape = (-1, *[1] * (merged.down.dim() - 1))
            tensors[f"{name}.dora_scale"] = merged.norms.reshape(shape)
    if path is not None:
        saved = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        save_file(saved, path, metadata={"format": "pt"})
    return True


def _places(denoiser: Any, adapted: list[str]) -> dict[str, list[str]] | None:
    """Original modules → those of diffusers in them, at least one of which is adapted; None if unknown."""
    kind = type(denoiser).__name__.removeprefix("FSDP")  # which is what sharding adds
    if kind == "UNet2DConditionModel":
        if denoiser.config.addition_embed_type is None:  # SD: kohya's scripts use diffusers' names
            return {name: [name] for name in adapted}
        blocks = unet_blocks(denoiser.config)
        return {unet_name(name, blocks): [name] for name in adapted}
    places: dict[str, list[str]] = {}
    for name in adapted:
        found = _place(BLOCKS.get(kind, {}), name)
        if found is None:
            return None
        places[found[0]] = found[1]
    return places


def _place(
    lists: Mapping[str, tuple[str, Mapping[str, tuple[str, ...]]]], name: str
) -> tuple[str, list[str]] | None:
    matched = re.fullmatch(r"(\w+)\.(\d+)\.(.+)", name)
    if matched is None or matched[1] not in lists:
        return None
    original, modules = lists[matched[1]]
    for place, parts in modules.items():
        if matched[3] in parts:
            start = f"{matched[1]}.{matched[2]}"
            return f"{original}.{matched[2]}.{place}", [f"{start}.{part}" for part in parts]
    return None


def _update(layer: Any) -> Update:
    adapter = layer.active_adapters[0]
    down = whole(layer.lora_A[adapter].weight.detach()).float()
    up = whole(layer.lora_B[adapter].weight.detach()).float() * layer.scaling[adapter]
    if adapter not in layer.lora_magnitude_vector:
        return Update(down, up)
    magnitude = whole(layer.lora_magnitude_vector[adapter].weight.detach()).float().flatten()
    base = whole(layer.get_base_layer().weight.detach()).float().flatten(1)
    # ComfyUI divides by ‖W‖, where PEFT and diffusers divide by ‖W + ΔW‖.
    changed = (base + up.flatten(1) @ down.flatten(1)).norm(dim=1)
    return Update(down, up, magnitude * base.norm(dim=1) / changed)


def _fused(denoiser: Any, parts: list[tuple[str, Update | None]]) -> Update:
    """One update of modules whose rows follow each other; those without an update stay as they are."""
    known = [update for _, update in parts if update is not None]
    up, norms = [], []
    for name, update in parts:
        weight = _weight(denoiser, name)
        row = [
            torch.zeros(len(weight), len(other.down))
            if update is None or other is not update
            else other.up.cpu()
            for other in known
        ]
        up.append(torch.cat(row, dim=1))
        if known[0].norms is not None:
            own = None if update is None else update.norms
            norms.append(whole(weight).float().norm(dim=1) if own is None else own)
    down = torch.cat([update.down.cpu() for update in known])
    return Update(down, torch.cat(up), torch.cat([n.cpu() for n in norms]) if norms else None)


def _weight(denoiser: Any, name: str) -> Tensor:
    module = denoiser.get_submodule(name)
    layer = module.get_base_layer() if isinstance(module, LoraLayer) else module
    weight: Tensor = layer.weight.detach()
    return weight
