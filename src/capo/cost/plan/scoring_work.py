"""What scoring an image takes, by the rewards whose architecture is known here."""

from collections.abc import Callable
from functools import cache, partial

import torch
from PIL import Image

from capo.cost.plan.weightless import META, count
from capo.recipe import RewardSection
from capo.recipe.hub_id import split_revision
from capo.rewards import load_reward
from capo.rewards.catalog import CATALOG, CatalogEntry, find_entry

QUESTION_TOKENS = 40
"""Of a question about a prompt of some twenty words, with what a chat model wants around it."""
PROMPT_TOKENS = 25
"""Of such a prompt alone."""
CONVERSATION_TOKENS = 40
"""Of what CLIP-FlanT5 reads before the image."""
INSTRUCTION_TOKENS = 600
"""Of HPSv3's instruction."""
WHOLE = 1024
"""Pixels of a side of an image that a model reads in its own size."""


def score_flops(reward: RewardSection) -> int | None:
    """FLOPs for an image; None for a function, other weights, or an architecture not known here."""
    source = reward.source or reward.name
    entry = find_entry(source)
    if entry is None or (reward.checkpoint is not None and not _same(reward.checkpoint, entry)):
        return None
    if entry.built_by:
        return _run_once(source)
    return PUBLISHED[source][0]() if source in PUBLISHED else None


def score_precision(reward: RewardSection) -> str:
    """What it computes in on a GPU: preference models and raters in float32, large models in half of that."""
    source = reward.source or reward.name
    return PUBLISHED[source][1] if source in PUBLISHED else "float32"


def _same(checkpoint: str, entry: CatalogEntry) -> bool:
    """Whether these are the weights it ships with, if maybe of another commit."""
    return split_revision(checkpoint)[0] == split_revision(entry.checkpoint)[0]


@cache
def _run_once(source: str) -> int:
    """Of a reward that comes with capo, on the CPU: it is small."""
    reward = load_reward(RewardSection(name=source), torch.device("cpu"))
    return count(lambda: reward.score([Image.new("RGB", (64, 64))], ["two red squares"])).flops


# Networks of the published sizes. Projections between them are left out.


def _eye(width: int, inner: int, layers: int, patch: int, image: int) -> int:
    """A vision transformer with 16 heads on an image of that many pixels a side."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=16,
        patch_size=patch, image_size=image,
    )  # fmt: skip
    with META:
        model, pixels = CLIPVisionModel(config).eval(), torch.empty(1, 3, image, image)
    return _forward(lambda: model(pixels))


def _reader(width: int, layers: int) -> int:
    """The text tower of a CLIP, heads of 64 channels."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=width // 64,
    )  # fmt: skip
    with META:
        model, tokens = CLIPTextModel(config).eval(), torch.empty(1, 77, dtype=torch.int64)
    return _forward(lambda: model(tokens))


def _mind(width: int, inner: int, layers: int, heads: int, groups: int, words: int, length: int) -> int:
    """A language model that reads `length` tokens, some of them an image, and says one."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=groups, vocab_size=words, attn_implementation="eager",
    )  # fmt: skip
    with META:
        model = LlamaForCausalLM(config).eval()
        read, mask = torch.empty(1, length, width), torch.empty(1, 1, length, length)
    said = partial(model, inputs_embeds=read, attention_mask=mask, use_cache=False, logits_to_keep=1)
    return _forward(said)


def _t5(width: int, inner: int, heads: int, length: int) -> int:
    """Flan-T5 of 24 layers, which answers in two tokens."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        d_model=width, d_ff=inner, num_layers=24, num_heads=heads, d_kv=64, vocab_size=32128,
        feed_forward_proj="gated-gelu", attn_implementation="eager",
    )  # fmt: skip
    with META:
        model = T5ForConditionalGeneration(config).eval()
        read, answer = torch.empty(1, length, width), torch.empty(1, 2, dtype=torch.int64)
    return _forward(lambda: model(inputs_embeds=read, decoder_input_ids=answer, use_cache=False))


def _bert(seen: int) -> int:
    """BLIP's BERT, which reads a prompt and looks at `seen` patches of 1024 channels."""
    from transformers.models.blip.configuration_blip import BlipTextConfig
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    config = BlipTextConfig(
        hidden_size=768, encoder_hidden_size=1024, intermediate_size=3072, num_hidden_layers=12,
        num_attention_heads=12, is_decoder=True,
    )  # fmt: skip
    with META:
        model = BlipTextModel(config, add_pooling_layer=False).eval()
        tokens, patches = torch.empty(1, PROMPT_TOKENS, dtype=torch.int64), torch.empty(1, seen, 1024)
        mask = torch.empty(1, 1, PROMPT_TOKENS, PROMPT_TOKENS)
    return _forward(partial(model, tokens, mask, encoder_hidden_states=patches, is_decoder=False))


def _forward(work: Callable[[], object]) -> int:
    with torch.no_grad():
        return count(work).flops


# The rewards whose weights are on the Hub.


@cache
def clip_h() -> int:
    """CLIP ViT-H/14, as PickScore and HPSv2: image and prompt."""
    return _eye(1280, 5120, 32, patch=14, image=224) + _reader(1024, 24)


def mps() -> int:
    """MPS: CLIP ViT-H/14, and its cross model on each of 257 patches."""
    cross = CATALOG["mps"].parameters_millions - CATALOG["pickscore"].parameters_millions
    return clip_h() + int(2 * cross * 1e6 * 257)


@cache
def clip_l_eye(image: int = 224) -> int:
    """The image tower of CLIP ViT-L/14."""
    return _eye(1024, 4096, 24, patch=14, image=image)


def clip_l() -> int:
    """CLIP ViT-L/14: image and prompt."""
    return clip_l_eye() + _reader(768, 12)


@cache
def siglip() -> int:
    """The image tower of SigLIP so400m at 384 pixels."""
    return _eye(1152, 4304, 27, patch=14, image=384)


@cache
def blip() -> int:
    """BLIP's ViT-L/16 and BERT, as ImageReward and CycleReward."""
    return _eye(1024, 4096, 24, patch=16, image=224) + _bert((224 // 16) ** 2 + 1)


@cache
def clip_t5(width: int, inner: int, heads: int) -> int:
    """CLIP-FlanT5: 576 patches of ViT-L/14 at 336 pixels among the words of a conversation."""
    return clip_l_eye(336) + _t5(width, inner, heads, 576 + QUESTION_TOKENS + CONVERSATION_TOKENS)


@cache
def llava_7b() -> int:
    """LLaVA 1.5 7B, as VQAScore: a picture of 576 tokens, and one token of an answer."""
    return clip_l_eye(336) + _mind(4096, 11008, 32, 32, 32, words=32064, length=576 + QUESTION_TOKENS)


@cache
def qwen3_vl_8b() -> int:
    """Qwen3-VL-8B, as VQAScore: patches of 16 pixels, four of which are a token."""
    eye = _eye(1152, 4304, 27, patch=16, image=WHOLE)
    return eye + _mind(4096, 12288, 36, 32, 8, words=151936, length=(WHOLE // 32) ** 2 + QUESTION_TOKENS)


@cache
def hpsv3() -> int:
    """Qwen2-VL-7B, as HPSv3: a picture of 256 tokens, each of four patches, and the instruction."""
    eye = _eye(1280, 5120, 32, patch=14, image=448)
    return eye + _mind(3584, 18944, 28, 28, 4, words=151658, length=256 + INSTRUCTION_TOKENS + PROMPT_TOKENS)


PUBLISHED: dict[str, tuple[Callable[[], int], str]] = {
    "pickscore": (clip_h, "float32"),
    "hpsv2": (clip_h, "float32"),
    "hpsv2.1": (clip_h, "float32"),
    "mps": (mps, "float32"),
    "clipscore": (clip_l, "float32"),
    "laion-aesthetic": (clip_l_eye, "float32"),
    "aesthetic-v2.5": (siglip, "float32"),
    "imagereward": (blip, "float32"),
    "cyclereward": (blip, "float32"),
    "vqascore": (llava_7b, "float16"),
    "vqascore-qwen3-vl": (qwen3_vl_8b, "bfloat16"),
    "vqascore-clip-flant5-xl": (partial(clip_t5, 2048, 5120, 32), "bfloat16"),
    "vqascore-clip-flant5-xxl": (partial(clip_t5, 4096, 10240, 64), "bfloat16"),
    "hpsv3": (hpsv3, "bfloat16"),
}
"""What they take, and the precision they compute in on a GPU.

A judge that writes is not among them, for its time is not that of its FLOPs; nor is what runs in
packages of others, nor Q-ReAlign, whose layers are not known here.
"""
