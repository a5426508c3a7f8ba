"""What scoring an image takes, by the rewards whose architecture is known here."""

from collections.abc import Callable
from functools import cache

import torch
from PIL import Image

from capo.plan.weightless import META, count
from capo.recipe import RewardSection
from capo.rewards import SHIPPED, load_reward
from capo.rewards.catalogue import EMBEDDED

QUESTION_TOKENS = 40
"""Of a question about a prompt of some twenty words, with what a chat model wants around it."""


def score_flops(reward: RewardSection) -> int | None:
    """FLOPs for an image; None for a function, other weights, or an architecture not known here."""
    source = reward.source or reward.name
    if reward.checkpoint is not None or source not in SHIPPED:
        return None
    if SHIPPED[source].checkpoint.startswith(str(EMBEDDED)):
        return _run_once(source)
    return PUBLISHED[source]() if source in PUBLISHED else None


@cache
def _run_once(source: str) -> int:
    """Of a reward that comes with capo, on the CPU: it is small."""
    reward = load_reward(RewardSection(name=source), torch.device("cpu"))
    return count(lambda: reward.score([Image.new("RGB", (64, 64))], ["two red squares"])).flops


@cache
def clip_h() -> int:
    """CLIP ViT-H/14, as PickScore and HPSv2: image and prompt."""
    from transformers import CLIPConfig, CLIPModel

    vision = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32}
    vision |= {"num_attention_heads": 16, "patch_size": 14, "image_size": 224}
    text = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    }
    with META:
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=1024)).eval()
        pixels, tokens = torch.empty(1, 3, 224, 224), torch.empty(1, 77, dtype=torch.int64)

    def score() -> None:
        with torch.no_grad():
            model.get_image_features(pixels)
            model.get_text_features(tokens)

    return count(score).flops


@cache
def llava_7b() -> int:
    """LLaVA 1.5 7B, as VQAScore: a picture of 576 tokens, and one token of an answer."""
    from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
        patch_size=14, image_size=336,
    )  # fmt: skip
    with META:
        eye = CLIPVisionModel(vision).eval()
        mind = LlamaForCausalLM(LlamaConfig(vocab_size=32064)).eval()  # whose defaults are those of 7B
        pixels = torch.empty(1, 3, 336, 336)
        length = (336 // 14) ** 2 + QUESTION_TOKENS
        read, mask = torch.empty(1, length, 4096), torch.empty(1, 1, length, length)

    def score() -> None:
        with torch.no_grad():
            eye(pixels)
            mind(inputs_embeds=read, attention_mask=mask, use_cache=False, logits_to_keep=1)

    return count(score).flops


PUBLISHED: dict[str, Callable[[], int]] = {
    "pickscore": clip_h,
    "hpsv2": clip_h,
    "hpsv2.1": clip_h,
    "vqascore": llava_7b,
}
"""Shipped rewards whose weights are on the Hub. The projections between their towers are left out."""
