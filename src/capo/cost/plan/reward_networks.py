"""FLOPs of the networks that reward models are made of, at their published sizes.

All are built and run on torch's `meta` device. Projections between networks are left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from capo.cost.plan.weightless import META
from capo.cost.plan.work_counter import count_flops


@dataclass(frozen=True)
class DecoderShape:
    """Size of a decoder-only language model."""

    width: int
    inner: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int


def vision_tower(width: int, inner: int, layers: int, patch: int, side: int) -> int:
    """A vision transformer with 16 heads on a square image of `side` pixels."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=16,
        patch_size=patch, image_size=side,
    )  # fmt: skip
    with META:
        model, pixels = CLIPVisionModel(config).eval(), torch.empty(1, 3, side, side)
    return _forward_flops(lambda: model(pixels))


def text_encoder(width: int, layers: int) -> int:
    """The text tower of a CLIP model, with 64 channels per head, on 77 tokens."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=width // 64,
    )  # fmt: skip
    with META:
        model, tokens = CLIPTextModel(config).eval(), torch.empty(1, 77, dtype=torch.int64)
    return _forward_flops(lambda: model(tokens))


def language_model(shape: DecoderShape, length: int) -> int:
    """A language model that reads `length` tokens, image tokens included, and predicts one."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=shape.width, intermediate_size=shape.inner, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.key_value_heads,
        vocab_size=shape.vocabulary, attn_implementation="eager",
    )  # fmt: skip
    with META:
        model = LlamaForCausalLM(config).eval()
        embeddings, mask = torch.empty(1, length, shape.width), torch.empty(1, 1, length, length)
    return _forward_flops(
        partial(model, inputs_embeds=embeddings, attention_mask=mask, use_cache=False, logits_to_keep=1)
    )


def flan_t5(width: int, inner: int, heads: int, length: int) -> int:
    """Flan-T5 with 24 layers on `length` embeddings, with an answer of two tokens."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        d_model=width, d_ff=inner, num_layers=24, num_heads=heads, d_kv=64, vocab_size=32128,
        feed_forward_proj="gated-gelu", attn_implementation="eager",
    )  # fmt: skip
    with META:
        model = T5ForConditionalGeneration(config).eval()
        embeddings, answer = torch.empty(1, length, width), torch.empty(1, 2, dtype=torch.int64)
    return _forward_flops(lambda: model(inputs_embeds=embeddings, decoder_input_ids=answer, use_cache=False))


def blip_text_model(tokens: int, patches: int) -> int:
    """BLIP's BERT on a prompt, with cross-attention to image patches of 1024 channels."""
    from transformers.models.blip.configuration_blip import BlipTextConfig
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    config = BlipTextConfig(
        hidden_size=768, encoder_hidden_size=1024, intermediate_size=3072, num_hidden_layers=12,
        num_attention_heads=12, is_decoder=True,
    )  # fmt: skip
    with META:
        model = BlipTextModel(config, add_pooling_layer=False).eval()
        prompt, image = torch.empty(1, tokens, dtype=torch.int64), torch.empty(1, patches, 1024)
        mask = torch.empty(1, 1, tokens, tokens)
    return _forward_flops(partial(model, prompt, mask, encoder_hidden_states=image, is_decoder=False))


def _forward_flops(work: Callable[[], object]) -> int:
    with torch.no_grad():
        return count_flops(work)
