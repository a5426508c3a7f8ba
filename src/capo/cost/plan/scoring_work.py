"""FLOPs to score one image, for rewards whose architecture is known."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from PIL import Image

from capo.cost.plan.reward_networks import (
    DecoderShape,
    blip_text_model,
    flan_t5,
    language_model,
    text_encoder,
    vision_tower,
)
from capo.cost.plan.work_counter import count_flops
from capo.recipe import RewardSection
from capo.recipe.hub_id import split_revision
from capo.rewards import load_reward
from capo.rewards.catalog import CATALOG, CatalogEntry, shipped_entry

QUESTION_TOKENS = 40
"""A question about a prompt of about twenty words, with the tokens of a chat template."""
PROMPT_TOKENS = 25
"""Such a prompt alone."""
CONVERSATION_TOKENS = 40
"""The text that CLIP-FlanT5 reads before the image."""
INSTRUCTION_TOKENS = 600
"""HPSv3's instruction."""
NATIVE_SIDE = 1024
"""Assumed image side in pixels for models that read images at their own size."""


def score_flops(reward: RewardSection) -> int | None:
    """FLOPs per image; None for anything but the weights of a shipped reward of known architecture."""
    source, entry = reward.source or reward.name, shipped_entry(reward)
    if entry is None:
        return None
    if reward.checkpoint is not None and not _is_shipped_checkpoint(reward.checkpoint, entry):
        return None
    if entry.built_by:
        return _embedded(source)
    return PUBLISHED[source].flops() if source in PUBLISHED else None


def score_precision(reward: RewardSection) -> str:
    """Dtype that the reward computes in on a GPU: float32, or 16 bits for large models."""
    source = reward.source or reward.name
    return PUBLISHED[source].precision if source in PUBLISHED else "float32"


def _is_shipped_checkpoint(checkpoint: str, entry: CatalogEntry) -> bool:
    """True if these are the weights of the shipped reward, at any commit."""
    return split_revision(checkpoint)[0] == split_revision(entry.checkpoint)[0]


@cache
def _embedded(source: str) -> int:
    """Count one call of an embedded reward on the CPU, where it is cheap."""
    reward = load_reward(RewardSection(name=source), torch.device("cpu"))
    return count_flops(lambda: reward.score([Image.new("RGB", (64, 64))], ["two red squares"]))


@cache
def _clip_h() -> int:
    """CLIP ViT-H/14 (PickScore, HPSv2): image and prompt."""
    return vision_tower(1280, 5120, 32, patch=14, side=224) + text_encoder(1024, 24)


def _mps() -> int:
    """MPS: CLIP ViT-H/14, and its cross model on each of 257 patches."""
    cross = CATALOG["mps"].parameters_millions - CATALOG["pickscore"].parameters_millions
    return _clip_h() + int(2 * cross * 1e6 * 257)


@cache
def _clip_l_vision(side: int = 224) -> int:
    """The image tower of CLIP ViT-L/14."""
    return vision_tower(1024, 4096, 24, patch=14, side=side)


def _clip_l() -> int:
    """CLIP ViT-L/14: image and prompt."""
    return _clip_l_vision() + text_encoder(768, 12)


@cache
def _siglip() -> int:
    """The image tower of SigLIP so400m at 384 pixels."""
    return vision_tower(1152, 4304, 27, patch=14, side=384)


@cache
def _blip() -> int:
    """BLIP's ViT-L/16 and BERT (ImageReward, CycleReward)."""
    image = vision_tower(1024, 4096, 24, patch=16, side=224)
    return image + blip_text_model(PROMPT_TOKENS, patches=(224 // 16) ** 2 + 1)


@cache
def _clip_flan_t5(width: int, inner: int, heads: int) -> int:
    """CLIP-FlanT5: 576 patches of ViT-L/14 at 336 pixels within the tokens of a conversation."""
    length = 576 + QUESTION_TOKENS + CONVERSATION_TOKENS
    return _clip_l_vision(336) + flan_t5(width, inner, heads, length)


@cache
def _llava_7b() -> int:
    """LLaVA 1.5 7B as VQAScore: an image of 576 tokens, one answer token."""
    shape = DecoderShape(4096, 11008, layers=32, heads=32, key_value_heads=32, vocabulary=32064)
    return _clip_l_vision(336) + language_model(shape, 576 + QUESTION_TOKENS)


@cache
def _qwen3_vl_8b() -> int:
    """Qwen3-VL-8B as VQAScore: patches of 16 pixels, four of which form one token."""
    shape = DecoderShape(4096, 12288, layers=36, heads=32, key_value_heads=8, vocabulary=151936)
    image = vision_tower(1152, 4304, 27, patch=16, side=NATIVE_SIDE)
    return image + language_model(shape, (NATIVE_SIDE // 32) ** 2 + QUESTION_TOKENS)


@cache
def _hpsv3() -> int:
    """Qwen2-VL-7B as HPSv3: an image of 256 tokens of four patches each, and the instruction."""
    shape = DecoderShape(3584, 18944, layers=28, heads=28, key_value_heads=4, vocabulary=151658)
    image = vision_tower(1280, 5120, 32, patch=14, side=448)
    return image + language_model(shape, 256 + INSTRUCTION_TOKENS + PROMPT_TOKENS)


@dataclass(frozen=True)
class ScoringCost:
    """FLOPs per image of a published reward, and the dtype it computes in on a GPU."""

    flops: Callable[[], int]
    precision: str


PUBLISHED = {
    "pickscore": ScoringCost(_clip_h, "float32"),
    "hpsv2": ScoringCost(_clip_h, "float32"),
    "hpsv2.1": ScoringCost(_clip_h, "float32"),
    "mps": ScoringCost(_mps, "float32"),
    "clipscore": ScoringCost(_clip_l, "float32"),
    "laion-aesthetic": ScoringCost(_clip_l_vision, "float32"),
    "aesthetic-v2.5": ScoringCost(_siglip, "float32"),
    "imagereward": ScoringCost(_blip, "float32"),
    "cyclereward": ScoringCost(_blip, "float32"),
    "vqascore": ScoringCost(_llava_7b, "float16"),
    "vqascore-qwen3-vl": ScoringCost(_qwen3_vl_8b, "bfloat16"),
    "vqascore-clip-flant5-xl": ScoringCost(partial(_clip_flan_t5, 2048, 5120, 32), "bfloat16"),
    "vqascore-clip-flant5-xxl": ScoringCost(partial(_clip_flan_t5, 4096, 10240, 64), "bfloat16"),
    "hpsv3": ScoringCost(_hpsv3, "bfloat16"),
}
"""Published rewards by name.

Left out are rewards that write text, whose time does not follow from FLOPs; rewards that run in other
packages; and Q-ReAlign, whose layer sizes are unknown.
"""
