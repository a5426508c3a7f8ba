"""The names of tensors in the original layout of Stable Diffusion 1.x and SDXL, in one file.

unet            down_blocks.1.attentions.0   -> model.diffusion_model.input_blocks.4.1
vae             encoder.down_blocks.0        -> first_stage_model.encoder.down.0
text_encoder    encoder.layers.0 (CLIP-L)    -> cond_stage_model.… or conditioner.embedders.0.…
text_encoder_2  encoder.layers.0 (bigG)      -> conditioner.embedders.1.…, with fused Q, K, V
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

Names = dict[str, str]
"""Prefixes of diffusers' names → prefixes of the original names."""

_UNET: Names = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET: Names = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION: Names = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP: Names = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
}
_OPEN_CLIP_LAYER: Names = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def original_file(networks: Mapping[str, Any], target: Path) -> None:
    """Write the networks of an SD 1.x or SDXL pipeline, by part, to one file in the original layout."""
    parts = {name: network.state_dict() for name, network in networks.items()}
    tensors = dict(original_unet(parts["unet"], networks["unet"].config))
    tensors |= original_vae(parts["vae"], len(networks["vae"].config.block_out_channels))
    if "text_encoder_2" in parts:
        tensors |= original_clip(parts["text_encoder"], "conditioner.embedders.0.")
        tensors |= original_open_clip(parts["text_encoder_2"], "conditioner.embedders.1.model.")
    else:
        tensors |= original_clip(parts["text_encoder"], "cond_stage_model.")
    save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, target)


def unet_blocks(config: Mapping[str, Any]) -> Names:
    """Return the original prefixes of all blocks of a UNet with this configuration."""
    down, up = config["down_block_types"], config["up_block_types"]
    layers: int = config["layers_per_block"]
    names = dict(_UNET)
    number = 1
    for block, kind in enumerate(down):
        for layer in range(layers):
            names |= _block(f"down_blocks.{block}", layer, f"input_blocks.{number}", "CrossAttn" in kind)
            number += 1
        if block < len(down) - 1:
            names[f"down_blocks.{block}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
            number += 1
    number = 0
    for block, kind in enumerate(up):
        attends = "CrossAttn" in kind
        for layer in range(layers + 1):
            names |= _block(f"up_blocks.{block}", layer, f"output_blocks.{number}", attends)
            number += 1
        if block < len(up) - 1:
            place = f"output_blocks.{number - 1}.{1 + attends}.conv"
            names[f"up_blocks.{block}.upsamplers.0.conv"] = place
    return names


def _block(block: str, layer: int, place: str, attends: bool) -> Names:
    names = {f"{block}.resnets.{layer}": f"{place}.0"}
    return names | ({f"{block}.attentions.{layer}": f"{place}.1"} if attends else {})


def unet_name(name: str, blocks: Names) -> str:
    """Return the original name of a tensor or module of a UNet, without the file's prefix."""
    start = next(start for start in blocks if name == start or name.startswith(f"{start}."))
    rest = name.removeprefix(start)
    if ".resnets." in start:
        inner = rest.split(".")[1]
        rest = rest.replace(inner, _RESNET[inner], 1)
    return blocks[start] + rest


def original_unet(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a UNet under their original names."""
    blocks = unet_blocks(config)
    for name, tensor in weights.items():
        yield f"model.diffusion_model.{unet_name(name, blocks)}", tensor


def original_vae(weights: Mapping[str, Tensor], blocks: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of an `AutoencoderKL` with this many blocks under their original names."""
    for name, tensor in weights.items():
        new = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
        new = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", new)
        # The original counts the decoder's blocks from its output.
        new = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{blocks - 1 - int(m[1])}.block", new)
        upsampler = r"up_blocks\.(\d+)\.upsamplers\.0"
        new = re.sub(upsampler, lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", new)
        new = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        new = new.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        if "mid_block.attentions.0." in new:
            start, _, rest = new.partition("mid_block.attentions.0.")
            inner, _, kind = rest.rpartition(".")
            new = f"{start}mid.attn_1.{_VAE_ATTENTION[inner]}.{kind}"
            tensor = tensor[:, :, None, None] if tensor.dim() == 2 else tensor  # a 1 x 1 convolution there
        yield f"first_stage_model.{new}", tensor


def original_clip(weights: Mapping[str, Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a CLIP text encoder under `prefix`, with transformers' older names."""
    for name, tensor in weights.items():
        yield f"{prefix}transformer.text_model.{name.removeprefix('text_model.')}", tensor


def original_open_clip(weights: Mapping[str, Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of an OpenCLIP text encoder under `prefix`, with fused attention projections."""
    fused: dict[str, dict[str, Tensor]] = {}
    for full, tensor in weights.items():
        name = full.removeprefix("text_model.")
        if name == "text_projection.weight":
            yield f"{prefix}text_projection", tensor.T.contiguous()
        elif layer := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
            place, inner, kind = f"{prefix}transformer.resblocks.{layer[1]}", layer[2], layer[3]
            if inner.startswith("self_attn.") and inner != "self_attn.out_proj":
                fused.setdefault(f"{place}.attn.in_proj_{kind}", {})[inner[-6]] = tensor  # q, k or v
            else:
                yield f"{place}.{_OPEN_CLIP_LAYER[inner]}.{kind}", tensor
        else:
            start = next(start for start in _OPEN_CLIP if name.startswith(start))
            yield prefix + _OPEN_CLIP[start] + name.removeprefix(start), tensor
    for name, parts in fused.items():
        yield name, torch.cat([parts[side] for side in "qkv"])
