"""The layouts in which the authors of SD3 and FLUX publish their transformers, by module."""

import re

import torch

SD3_BLOCK = {
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "attn2.to_out.0": "x_block.attn2.proj",
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
SD3_FUSED = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
}
SD3_OUTSIDE = {
    "pos_embed.pos_embed": "pos_embed",
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
"""The layout of Stability's SD3 files, by module."""


def swapped(tensor):
    """Scale and shift in the other order."""
    return torch.cat([*reversed(tensor.chunk(2))])


def original_sd3(weights, layers):
    """The tensors of an SD3 transformer in the layout of its authors."""
    out = {}
    for name, tensor in weights.items():
        if block := re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)\.(weight|bias)", name):
            place, inner, kind = f"joint_blocks.{block[1]}.", block[2], block[3]
            if fused := next((new for new, parts in SD3_FUSED.items() if inner in parts), None):
                parts = [f"transformer_blocks.{block[1]}.{part}.{kind}" for part in SD3_FUSED[fused]]
                out[f"{place}{fused}.{kind}"] = torch.cat([weights[part] for part in parts])
                continue
            last = inner == "norm1_context.linear" and int(block[1]) == layers - 1
            out[f"{place}{SD3_BLOCK[inner]}.{kind}"] = swapped(tensor) if last else tensor
        else:
            start = next(start for start in SD3_OUTSIDE if name.startswith(start))
            value = swapped(tensor) if start == "norm_out.linear" else tensor
            out[SD3_OUTSIDE[start] + name.removeprefix(start)] = value
    return {f"model.diffusion_model.{name}": tensor for name, tensor in out.items()}


FLUX_BLOCKS = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
FLUX_FUSED = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
FLUX_SINGLE = {
    "norm.linear": "modulation.lin",
    "proj_out": "linear2",
    "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
}
FLUX_SINGLE_FUSED = {"linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")}


def original_flux_blocks(weights):
    """The tensors of the blocks of a FLUX transformer in the layout of its authors."""
    out = {}
    for name, tensor in weights.items():
        block = re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.(.+)\.(weight|bias)", name)
        if block is None:
            continue
        single, number, inner, kind = block.groups()
        plain, fused = (FLUX_SINGLE, FLUX_SINGLE_FUSED) if single else (FLUX_BLOCKS, FLUX_FUSED)
        place = f"{'single' if single else 'double'}_blocks.{number}."
        start = name.removesuffix(f"{inner}.{kind}")
        into = next((new for new, parts in fused.items() if inner in parts), None)
        if into is not None:
            out[f"{place}{into}.{kind}"] = torch.cat([weights[f"{start}{p}.{kind}"] for p in fused[into]])
        else:
            out[f"{place}{plain[inner]}.{kind if 'norm.' not in plain[inner] else 'scale'}"] = tensor
    return out
