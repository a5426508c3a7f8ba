"""Weights of CLIP models in other layouts than that of transformers: open_clip's names, or a tower alone."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

NAMES = (
    (r"^visual\.(class_embedding)$", r"vision_model.embeddings.\1"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^visual\.proj$", "visual_projection.weight"),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"^text_projection$", "text_projection.weight"),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.attn\.", ".self_attn."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
"""Patterns of open_clip names → transformers names."""
TRANSPOSED = ("visual_projection.weight", "text_projection.weight")
TEXT_PREFIXES = ("text_model.", "text_projection.", "logit_")


def from_open_clip(weights: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """Rename weights for `transformers.CLIPModel`. Unknown names stay as they are."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        attention, _, kind = name.partition(".in_proj_")
        if kind:  # queries, keys and values in one tensor
            thirds = zip("qkv", tensor.chunk(3), strict=True)
            renamed |= {f"{attention}.{part}_proj.{kind}": third.contiguous() for part, third in thirds}
        else:
            renamed[name] = tensor.T.contiguous() if name in TRANSPOSED else tensor
    return renamed


def drop_prefix(weights: "dict[str, Tensor]", prefix: str) -> "dict[str, Tensor]":
    """Remove `prefix` from all names, if all of them have it."""
    if not all(name.startswith(prefix) for name in weights):
        return weights
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items()}


def vision_weights(weights: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """Drop the weights that only the text tower uses."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith(TEXT_PREFIXES)}
