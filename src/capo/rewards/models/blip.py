"""BLIP reading an image and its prompt together: what ImageReward and CycleReward are built on.

Li et al., "BLIP" (2022), Sec. 3.1: a ViT, and a BERT with cross-attention to its patches. The
weights are in the names of the original code (`visual_encoder`, `text_encoder`); the modules are
those of transformers. The sizes are read off the weights, for the official files hold no more.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from capo.rewards.protocol import RewardError
from capo.rewards.weights.load_weights import load_into, read_weights

HEAD_WIDTH = 64
"""Channels an attention head, of every ViT and BERT that BLIP came with."""
NEEDED = ("vision.embeddings.position_embedding", "text.embeddings.word_embeddings.weight")
UNREAD = ("vision_proj.", "text_proj.")
"""Projections for contrastive pre-training, in the official files but without a part in the score."""
RENAMED = (
    (r"^visual_encoder\.cls_token$", "vision.embeddings.class_embedding"),
    (r"^visual_encoder\.pos_embed$", "vision.embeddings.position_embedding"),
    (r"^visual_encoder\.patch_embed\.proj\.", "vision.embeddings.patch_embedding."),
    (r"^visual_encoder\.norm\.", "vision.post_layernorm."),
    (r"^visual_encoder\.blocks\.(\d+)\.norm(\d)\.", r"vision.encoder.layers.\1.layer_norm\2."),
    (r"^visual_encoder\.blocks\.(\d+)\.attn\.qkv\.", r"vision.encoder.layers.\1.self_attn.qkv."),
    (r"^visual_encoder\.blocks\.(\d+)\.attn\.proj\.", r"vision.encoder.layers.\1.self_attn.projection."),
    (r"^visual_encoder\.blocks\.(\d+)\.mlp\.", r"vision.encoder.layers.\1.mlp."),
    (r"^text_encoder\.", "text."),
)
"""From the names of the original code to those of `Blip`."""


class Blip(nn.Module):
    """ViT and cross-attending BERT of the sizes of `weights`, which are in `Blip`'s own names."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        from transformers.models.blip.configuration_blip import BlipTextConfig, BlipVisionConfig
        from transformers.models.blip.modeling_blip import BlipVisionModel
        from transformers.models.blip.modeling_blip_text import BlipTextModel

        super().__init__()
        patches = weights["vision.embeddings.position_embedding"].shape[1] - 1
        channels, _, patch, _ = weights["vision.embeddings.patch_embedding.weight"].shape
        self.pixels = round(patches**0.5) * patch
        vision = BlipVisionConfig(
            hidden_size=channels,
            intermediate_size=len(weights["vision.encoder.layers.0.mlp.fc1.weight"]),
            num_hidden_layers=_layers(weights, r"vision\.encoder\.layers\.(\d+)\."),
            num_attention_heads=channels // HEAD_WIDTH,
            image_size=self.pixels,
            patch_size=patch,
            hidden_act="gelu",
            layer_norm_eps=1e-6,  # that of transformers differs
        )
        words, width = weights["text.embeddings.word_embeddings.weight"].shape
        text = BlipTextConfig(
            vocab_size=words,
            hidden_size=width,
            encoder_hidden_size=channels,
            intermediate_size=len(weights["text.encoder.layer.0.intermediate.dense.weight"]),
            num_hidden_layers=_layers(weights, r"text\.encoder\.layer\.(\d+)\."),
            num_attention_heads=width // HEAD_WIDTH,
            max_position_embeddings=len(weights["text.embeddings.position_embeddings.weight"]),
            hidden_act="gelu",
            layer_norm_eps=1e-12,
            is_decoder=True,  # which is what gives it cross-attention
        )
        self.vision = BlipVisionModel(vision)
        self.text = BlipTextModel(text, add_pooling_layer=False)

    def forward(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """[n, width]: the first token of each text [n, length] after it saw its image [n, 3, h, w]."""
        patches = self.vision(pixels).last_hidden_state
        # As an encoder: a decoder's mask would hide the prompt from its first token.
        seen = self.text(tokens, attention_mask=mask, encoder_hidden_states=patches, is_decoder=False)
        return seen.last_hidden_state[:, 0]


class BlipJudge(nn.Module):
    """`Blip` and linear layers down to one number; `activation` is between them.

    The layers have the places that the names of `head` say, as `0.weight`, `2.weight` ….
    """

    def __init__(
        self, blip: Mapping[str, Tensor], head: Mapping[str, Tensor], activation: type[nn.Module]
    ) -> None:
        super().__init__()
        self.blip = Blip(blip)
        places = [int(name.removesuffix(".weight")) for name in head if name.endswith(".weight")]
        self.head = nn.Sequential(*(activation() for _ in range(max(places) + 1)))
        for place in places:
            outputs, inputs = head[f"{place}.weight"].shape
            self.head[place] = nn.Linear(inputs, outputs)

    def forward(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """[n], of the arguments of `Blip`."""
        return self.head(self.blip(pixels, tokens, mask))[:, 0]


def load_judge(checkpoint: str, device: Any, activation: type[nn.Module]) -> BlipJudge:
    """The judge of an official file: `blip.visual_encoder.*`, `blip.text_encoder.*`, `mlp.layers.*`.

    In float32. Raises `RewardError` for anything else.
    """
    weights = read_weights(checkpoint)
    blip = {_rename(name): tensor for name, tensor in _under("blip.", weights) if not name.startswith(UNREAD)}
    blip.pop("text.embeddings.position_ids", None)  # a constant that older files hold
    head = dict(_under("mlp.layers.", weights))
    if lacking := [name for name in NEEDED if name not in blip] or ([] if head else ["mlp.layers"]):
        raise RewardError(f"{checkpoint} is not in the layout of ImageReward: it has no {lacking[0]}")
    try:
        judge = BlipJudge(blip, head, activation)
    except (KeyError, ValueError) as error:
        raise RewardError(f"{checkpoint} lacks weights of BLIP: {error}") from error
    parts = {"blip": blip, "head": head}
    named = {f"{part}.{name}": tensor for part, held in parts.items() for name, tensor in held.items()}
    return load_into(judge, named, checkpoint, device)


def _under(prefix: str, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    return ((n.removeprefix(prefix), tensor) for n, tensor in weights.items() if n.startswith(prefix))


def _rename(name: str) -> str:
    for old, new in RENAMED:
        name, found = re.subn(old, new, name)
        if found:
            break
    return name


def _layers(weights: Mapping[str, Tensor], pattern: str) -> int:
    return 1 + max(int(found[1]) for name in weights if (found := re.match(pattern, name)))
