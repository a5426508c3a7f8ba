"""Tiny checkpoints of the CLIP rewards in the layouts of their authors, with random weights."""

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
)
from transformers.models.siglip import SiglipImageProcessorPil

import tiny_rewards
from tiny import CONTEXT, clip_tokenizer, text_config

WIDTH, HEADS, LAYERS, PATCH = 16, 2, 2, 8
HIDDEN = (1024, 128, 64, 16, 1)
"""Output sizes of the layers of the released aesthetic heads."""


def tower(folder: Path) -> Path:
    """A CLIP in the layout of transformers, with GELU like the models of OpenCLIP."""
    tokenizer = clip_tokenizer()
    vision = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": LAYERS}
    vision |= {"num_attention_heads": HEADS, "image_size": tiny_rewards.PIXELS, "patch_size": PATCH}
    text = text_config(tokenizer).to_dict() | {"hidden_act": "gelu"}
    config = CLIPConfig(
        text_config=text,
        vision_config=vision | {"hidden_act": "gelu"},
        projection_dim=WIDTH,
        logit_scale_init_value=2.0,
    )
    tiny_rewards.clip(folder)  # for its tokenizer and image processor
    return tiny_rewards._save(CLIPModel, config, folder, seed=3)


def open_clip(folder: Path, prefix: str = "") -> Path:
    """HPSv2: open_clip names, with the configuration and tokenizer of the tower."""
    tower(folder)
    draw = _drawing(1)
    weights = {
        "positional_embedding": draw(CONTEXT, WIDTH),
        "text_projection": draw(WIDTH, WIDTH),
        "logit_scale": torch.tensor(math.log(100)),
        "token_embedding.weight": draw(len(clip_tokenizer()), WIDTH),
        "ln_final.weight": 1 + draw(WIDTH),
        "ln_final.bias": draw(WIDTH),
        "visual.class_embedding": draw(WIDTH),
        "visual.positional_embedding": draw(1 + (tiny_rewards.PIXELS // PATCH) ** 2, WIDTH),
        "visual.proj": draw(WIDTH, WIDTH),
        "visual.conv1.weight": draw(WIDTH, 3, PATCH, PATCH) / PATCH,
    }
    for norm in ("visual.ln_pre", "visual.ln_post"):
        weights |= {f"{norm}.weight": 1 + draw(WIDTH), f"{norm}.bias": draw(WIDTH)}
    shapes = {
        "ln_1.weight": (WIDTH,), "ln_1.bias": (WIDTH,), "ln_2.weight": (WIDTH,), "ln_2.bias": (WIDTH,),
        "attn.in_proj_weight": (3 * WIDTH, WIDTH), "attn.in_proj_bias": (3 * WIDTH,),
        "attn.out_proj.weight": (WIDTH, WIDTH), "attn.out_proj.bias": (WIDTH,),
        "mlp.c_fc.weight": (32, WIDTH), "mlp.c_fc.bias": (32,),
        "mlp.c_proj.weight": (WIDTH, 32), "mlp.c_proj.bias": (WIDTH,),
    }  # fmt: skip
    for side in ("visual.transformer", "transformer"):
        for layer in range(LAYERS):
            weights |= {f"{side}.resblocks.{layer}.{name}": draw(*shape) for name, shape in shapes.items()}
    return _replace(folder, {prefix + name: tensor for name, tensor in weights.items()})


def mps(folder: Path, prefix: str = "mps.") -> Path:
    """MPS: a CLIP and two layers of its cross model, including stored constants."""
    clip = CLIPModel.from_pretrained(tower(folder)).state_dict()
    weights = {f"model.{name}": tensor for name, tensor in clip.items()}
    draw, head, inner, ff = _drawing(2), 4, 8, 24
    for layer in range(2):
        text, patch = (f"cross_model.layers.{layer}.{block}.fn." for block in (0, 1))
        weights |= {
            f"{text}norm.weight": 1 + draw(WIDTH),
            f"{text}norm.bias": torch.zeros(WIDTH),
            f"{text}to_q.weight": draw(inner, WIDTH),
            f"{text}to_kv.weight": draw(2 * head, WIDTH),
            f"{text}to_out.weight": draw(WIDTH, inner),
            f"{text}ff.0.weight": draw(2 * ff, WIDTH),
            f"{text}ff.2.weight": draw(WIDTH, ff),
            f"{patch}norm.weight": 1 + draw(WIDTH),
            f"{patch}norm.bias": torch.zeros(WIDTH),
            f"{patch}rotary_emb.inv_freq": 10000.0 ** -(torch.arange(0, head, 2) / head),
            f"{patch}fused_attn_ff_proj.weight": draw(inner + 2 * head + 2 * ff, WIDTH),
            f"{patch}attn_out.weight": draw(WIDTH, inner),
            f"{patch}ff_out.1.weight": draw(WIDTH, ff),
        }
    return _replace(folder, {prefix + name: tensor for name, tensor in weights.items()})


def laion_head(file: Path) -> Path:
    """The head as it was released: a pickle of tensors."""
    torch.save(_head("layers.", (0, 2, 4, 6, 7)), file)
    return file


def laion(folder: Path) -> Path:
    """The head and the tower under the names of the safetensors port."""
    vision = {
        f"clip.{name}": tensor
        for name, tensor in CLIPModel.from_pretrained(tower(folder)).state_dict().items()
        if name.startswith(("vision_model.", "visual_projection."))
    }
    return _replace(folder, vision | _head("mlp.layers.", (0, 2, 4, 6, 7)))


def siglip(folder: Path) -> Path:
    """SigLIP, and the head in a separate file."""
    size = {"height": tiny_rewards.PIXELS, "width": tiny_rewards.PIXELS}
    SiglipImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
    shared = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = SiglipVisionConfig(**shared, image_size=tiny_rewards.PIXELS, patch_size=PATCH)
    text = SiglipTextConfig(**shared, vocab_size=20, max_position_embeddings=8)
    config = SiglipConfig(text_config=text.to_dict(), vision_config=vision.to_dict())
    tiny_rewards._save(SiglipModel, config, folder, seed=0)
    save_file(_head("scoring_head.", (0, 2, 4, 6, 8)), folder / "head.safetensors")
    return folder


def _head(prefix: str, layers: tuple[int, ...]) -> dict[str, torch.Tensor]:
    draw, weights, size = _drawing(4), {}, WIDTH
    for layer, out in zip(layers, HIDDEN, strict=True):
        weights[f"{prefix}{layer}.weight"] = draw(out, size) * 2 / math.sqrt(size)
        weights[f"{prefix}{layer}.bias"] = draw(out)
        size = out
    return weights


def _drawing(seed: int):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: 0.5 * torch.randn(*shape, generator=generator)


def _replace(folder: Path, weights: dict[str, torch.Tensor]) -> Path:
    whole = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
