"""BLIP, which reads an image and its prompt together: the base of ImageReward and CycleReward.

Li et al., "BLIP" (2022), Sec. 3.1: a ViT, and a BERT with cross-attention to the patches. Weights
have the names of the original code (`visual_encoder`, `text_encoder`); the modules are those of
transformers. The sizes are read from the weights, because the official files hold nothing else.

`image_reward` and `cycle_reward` define the scores.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from capo.rewards.protocol import RewardError
from capo.rewards.weights.load_weights import load_into, read_weights

HEAD_WIDTH = 64
"""Channels per attention head in every ViT and BERT that BLIP was released with."""
REQUIRED = ("vision.embeddings.position_embedding", "text.embeddings.word_embeddings.weight")
UNUSED = ("vision_proj.", "text_proj.")
"""Projections for contrastive pre-training. The official files contain them; the score does not use them."""
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
"""Patterns of names in the original code → names in `Blip`."""


class Blip(nn.Module):
    """A ViT and a BERT with cross-attention, sized to fit `weights` (in the names of `Blip`)."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        from transformers.models.blip.modeling_blip import BlipVisionModel
        from transformers.models.blip.modeling_blip_text import BlipTextModel

        super().__init__()
        vision, text = sized_configs(weights)
        self.pixels = vision.image_size
        self.vision = BlipVisionModel(vision)
        self.text = BlipTextModel(text, add_pooling_layer=False)

    def forward(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return [n, width]: the first token of texts [n, length] after attending to images [n, 3, h, w]."""
        patches = self.vision(pixels).last_hidden_state
        # Run as an encoder, because a causal mask would hide the prompt from the first token.
        output = self.text(tokens, attention_mask=mask, encoder_hidden_states=patches, is_decoder=False)
        return output.last_hidden_state[:, 0]


class BlipJudge(nn.Module):
    """`Blip` and linear layers down to one number, with `activation` between them.

    The names in `head` (`0.weight`, `2.weight` …) give the positions of the linear layers.
    """

    def __init__(
        self, blip: Mapping[str, Tensor], head: Mapping[str, Tensor], activation: type[nn.Module]
    ) -> None:
        super().__init__()
        self.blip = Blip(blip)
        positions = [int(name.removesuffix(".weight")) for name in head if name.endswith(".weight")]
        self.head = nn.Sequential(*(activation() for _ in range(max(positions) + 1)))
        for position in positions:
            outputs, inputs = head[f"{position}.weight"].shape
            self.head[position] = nn.Linear(inputs, outputs)

    def forward(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return raw scores [n] for the arguments of `Blip.forward`."""
        return self.head(self.blip(pixels, tokens, mask))[:, 0]


def load_judge(checkpoint: str, device: Any, activation: type[nn.Module]) -> BlipJudge:
    """Load the judge, in float32, from a file in the official layout.

    The layout is `blip.visual_encoder.*`, `blip.text_encoder.*` and `mlp.layers.*`. Raises
    `RewardError` for any other.
    """
    weights = read_weights(checkpoint)
    blip = {rename(name): tensor for name, tensor in _under("blip.", weights) if not name.startswith(UNUSED)}
    blip.pop("text.embeddings.position_ids", None)  # a constant in older files
    head = dict(_under("mlp.layers.", weights))
    if missing := [name for name in REQUIRED if name not in blip] or ([] if head else ["mlp.layers"]):
        raise RewardError(f"{checkpoint} is not in the layout of ImageReward: {missing[0]} is missing")
    try:
        judge = BlipJudge(blip, head, activation)
    except (KeyError, ValueError) as error:
        raise RewardError(f"{checkpoint} is not a BLIP that can be read: {error}") from error
    parts = {"blip": blip, "head": head}
    named = {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
    return load_into(judge, named, checkpoint, device)


def sized_configs(weights: Mapping[str, Tensor]) -> tuple[Any, Any]:
    """Return the configurations of vision and text that fit `weights` (in the names of `Blip`).

    Raises `KeyError` or `ValueError` if weights are missing.
    """
    from transformers.models.blip.configuration_blip import BlipTextConfig, BlipVisionConfig

    patches = weights["vision.embeddings.position_embedding"].shape[1] - 1
    channels, _, patch, _ = weights["vision.embeddings.patch_embedding.weight"].shape
    vision = BlipVisionConfig(
        hidden_size=channels,
        intermediate_size=len(weights["vision.encoder.layers.0.mlp.fc1.weight"]),
        num_hidden_layers=_layers(weights, r"vision\.encoder\.layers\.(\d+)\."),
        num_attention_heads=_heads(channels, "vision"),
        image_size=round(patches**0.5) * patch,
        patch_size=patch,
        hidden_act="gelu",
        layer_norm_eps=1e-6,  # the default of transformers differs
    )
    words, width = weights["text.embeddings.word_embeddings.weight"].shape
    text = BlipTextConfig(
        vocab_size=words,
        hidden_size=width,
        encoder_hidden_size=channels,
        intermediate_size=len(weights["text.encoder.layer.0.intermediate.dense.weight"]),
        num_hidden_layers=_layers(weights, r"text\.encoder\.layer\.(\d+)\."),
        num_attention_heads=_heads(width, "text"),
        max_position_embeddings=len(weights["text.embeddings.position_embeddings.weight"]),
        hidden_act="gelu",
        layer_norm_eps=1e-12,
        is_decoder=True,  # this adds cross-attention
    )
    return vision, text


def _heads(width: int, part: str) -> int:
    """Return the number of attention heads, which BLIP's files do not state."""
    if width < HEAD_WIDTH or width % HEAD_WIDTH:
        raise ValueError(f"its {part} is {width} wide, not a multiple of {HEAD_WIDTH}, the width of a head")
    return width // HEAD_WIDTH


def rename(name: str) -> str:
    """Return the name in `Blip` of a weight in the names of the original code."""
    for old, new in RENAMED:
        name, count = re.subn(old, new, name)
        if count:
            break
    return name


def _under(prefix: str, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    return ((n.removeprefix(prefix), tensor) for n, tensor in weights.items() if n.startswith(prefix))


def _layers(weights: Mapping[str, Tensor], pattern: str) -> int:
    return 1 + max(int(match[1]) for name in weights if (match := re.match(pattern, name)))
