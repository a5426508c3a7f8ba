"""mmdet's weights of Mask2Former with a Swin backbone, under the names that transformers uses.

The layout is that of mmdet 2.x, in which GenEval's official detector is published. Both libraries have the
same architecture. transformers names everything differently, keeps query, key and value of most attentions
apart, and orders the four patches that `PatchMerging` joins differently.
"""

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_BACKBONE = "model.pixel_level_module.encoder."
_PIXELS = "model.pixel_level_module.decoder."
_DECODER = "model.transformer_module.decoder."

_NAMES = (
    (r"^backbone\.patch_embed\.projection\.", f"{_BACKBONE}swin.embeddings.patch_embeddings.projection."),
    (r"^backbone\.patch_embed\.norm\.", f"{_BACKBONE}swin.embeddings.norm."),
    (r"^backbone\.stages\.", f"{_BACKBONE}swin.encoder.layers."),
    (r"^backbone\.norm0\.", f"{_BACKBONE}hidden_states_norms.stage1."),
    (r"^backbone\.norm1\.", f"{_BACKBONE}hidden_states_norms.stage2."),
    (r"^backbone\.norm2\.", f"{_BACKBONE}hidden_states_norms.stage3."),
    (r"^backbone\.norm3\.", f"{_BACKBONE}hidden_states_norms.stage4."),
    (r"\.blocks\.(\d+)\.norm1\.", r".blocks.\1.layernorm_before."),
    (r"\.blocks\.(\d+)\.norm2\.", r".blocks.\1.layernorm_after."),
    (r"\.attn\.w_msa\.(?=relative_position_bias_table$)", ".attention.relative_position_bias."),
    (r"\.attn\.w_msa\.proj\.", ".attention.o_proj."),
    (r"\.attn\.w_msa\.", ".attention."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    (r"^panoptic_head\.pixel_decoder\.input_convs\.(\d+)\.conv\.", rf"{_PIXELS}input_projections.\1.0."),
    (r"^panoptic_head\.pixel_decoder\.input_convs\.(\d+)\.gn\.", rf"{_PIXELS}input_projections.\1.1."),
    (r"^panoptic_head\.pixel_decoder\.lateral_convs\.0\.conv\.", f"{_PIXELS}adapter_1.0."),
    (r"^panoptic_head\.pixel_decoder\.lateral_convs\.0\.gn\.", f"{_PIXELS}adapter_1.1."),
    (r"^panoptic_head\.pixel_decoder\.output_convs\.0\.conv\.", f"{_PIXELS}layer_1.0."),
    (r"^panoptic_head\.pixel_decoder\.output_convs\.0\.gn\.", f"{_PIXELS}layer_1.1."),
    (r"(\.pixel_decoder\.encoder\.layers\.\d+)\.attentions\.0\.", r"\1.self_attn."),
    (r"(\.pixel_decoder\.encoder\.layers\.\d+)\.norms\.0\.", r"\1.self_attn_layer_norm."),
    (r"(\.pixel_decoder\.encoder\.layers\.\d+)\.norms\.1\.", r"\1.final_layer_norm."),
    (r"^panoptic_head\.pixel_decoder\.encoder\.", f"{_PIXELS}encoder."),
    (r"^panoptic_head\.pixel_decoder\.level_encoding\.weight$", f"{_PIXELS}level_embed"),
    (r"^panoptic_head\.pixel_decoder\.mask_feature\.", f"{_PIXELS}mask_projection."),
    (r"^panoptic_head\.transformer_decoder\.post_norm\.", f"{_DECODER}layernorm."),
    (r"^panoptic_head\.transformer_decoder\.", _DECODER),
    (r"\.attentions\.0\.attn\.", ".cross_attn."),
    (r"\.attentions\.1\.attn\.", ".self_attn."),
    (r"\.norms\.0\.", ".cross_attn_layer_norm."),
    (r"\.norms\.1\.", ".self_attn_layer_norm."),
    (r"\.norms\.2\.", ".final_layer_norm."),
    (r"\.ffns\.0\.layers\.0\.0\.", ".fc1."),
    (r"\.ffns\.0\.layers\.1\.", ".fc2."),
    (r"^panoptic_head\.query_embed\.", "model.transformer_module.queries_embedder."),
    (r"^panoptic_head\.query_feat\.", "model.transformer_module.queries_features."),
    (r"^panoptic_head\.level_embed\.", "model.transformer_module.level_embed."),
    (r"^panoptic_head\.cls_embed\.", "class_predictor."),
    (r"^panoptic_head\.mask_embed\.0\.", f"{_DECODER}mask_predictor.mask_embedder.0.0."),
    (r"^panoptic_head\.mask_embed\.2\.", f"{_DECODER}mask_predictor.mask_embedder.1.0."),
    (r"^panoptic_head\.mask_embed\.4\.", f"{_DECODER}mask_predictor.mask_embedder.2.0."),
)
"""Patterns of mmdet's names → transformers' names, applied in this order."""

_JOINED = re.compile(r"(.*\.attention\.)qkv\.(weight|bias)|(.*\.self_attn\.)in_proj_(weight|bias)")
"""Query, key and value in one tensor, which transformers keeps apart."""

_POINTS, _LEVELS = 4, 3
"""Sampling points and feature levels of the deformable attention, which transformers fixes."""


def is_mmdet(weights: "dict[str, Tensor]") -> bool:
    """Return whether weights have mmdet's names of Mask2Former with Swin."""
    return "backbone.patch_embed.projection.weight" in weights and "panoptic_head.cls_embed.weight" in weights


def from_mmdet(weights: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """Return mmdet's weights with the names and shapes of `Mask2FormerForUniversalSegmentation`.

    Names without a counterpart stay as they are, so that loading rejects them.
    """
    converted: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name.endswith(".relative_position_index"):
            continue  # a constant, which transformers computes
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        if ".downsample." in name:
            tensor = _reorder_patches(tensor)
        if match := _JOINED.fullmatch(name):
            start, kind = match[1] or match[3], match[2] or match[4]
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                converted[f"{start}{part}_proj.{kind}"] = piece
        else:
            converted[name] = tensor
    return converted


def config_of(weights: "dict[str, Tensor]") -> Any:
    """Return the configuration of transformers that fits mmdet's weights, read off their shapes.

    All sizes follow from the shapes; what does not is the same in every configuration that mmdet publishes.
    """
    from transformers import Mask2FormerConfig, SwinConfig

    head, pixels = "panoptic_head", "panoptic_head.pixel_decoder"
    layer = f"{pixels}.encoder.layers.0"
    width, patch = weights["backbone.patch_embed.projection.weight"].shape[0], 4
    tables = [
        f"backbone.stages.{stage}.blocks.0.attn.w_msa.relative_position_bias_table" for stage in range(4)
    ]
    swin = SwinConfig(
        embed_dim=width,
        patch_size=patch,
        depths=[_count(weights, rf"backbone\.stages\.{stage}\.blocks\.(\d+)\.") for stage in range(4)],
        num_heads=[weights[table].shape[1] for table in tables],
        window_size=(int(weights[tables[0]].shape[0] ** 0.5) + 1) // 2,
        mlp_ratio=weights["backbone.stages.0.blocks.0.ffn.layers.0.0.weight"].shape[0] / width,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    offsets = weights[f"{layer}.attentions.0.sampling_offsets.weight"].shape[0]
    return Mask2FormerConfig(
        backbone_config=swin.to_dict(),
        feature_size=weights[f"{pixels}.mask_feature.weight"].shape[1],
        mask_feature_size=weights[f"{pixels}.mask_feature.weight"].shape[0],
        hidden_dim=weights[f"{head}.query_feat.weight"].shape[1],
        encoder_feedforward_dim=weights[f"{layer}.ffns.0.layers.0.0.weight"].shape[0],
        dim_feedforward=weights[f"{head}.transformer_decoder.layers.0.ffns.0.layers.0.0.weight"].shape[0],
        encoder_layers=_count(weights, rf"{re.escape(pixels)}\.encoder\.layers\.(\d+)\."),
        decoder_layers=_count(weights, rf"{head}\.transformer_decoder\.layers\.(\d+)\.") + 1,
        num_attention_heads=offsets // (2 * _POINTS * _LEVELS),
        num_queries=weights[f"{head}.query_feat.weight"].shape[0],
        num_labels=weights[f"{head}.cls_embed.weight"].shape[0] - 1,
    )


def _reorder_patches(tensor: "Tensor") -> "Tensor":
    """Return weights over 4 C channels in transformers' order.

    mmdet orders channel, row, column; transformers orders column, row, channel.
    """
    parts = tensor.unflatten(-1, (-1, 2, 2))
    return parts.transpose(-1, -3).flatten(-3).contiguous()


def _count(weights: "dict[str, Tensor]", pattern: str) -> int:
    return len({match[1] for name in weights if (match := re.match(pattern, name))})
