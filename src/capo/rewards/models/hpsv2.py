"""HPSv2 and HPSv2.1: which image people prefer for a prompt, by a CLIP fine-tuned on HPDv2.

Wu et al., "Human Preference Score v2" (2023), Sec. 4; shipped checkpoints: `xswu/HPSv2` (a pickle,
downloaded by hand) and `RE-N-Y/hpsv21`.
Score: the bare cosine, about 0.15 to 0.36. Published tables show 100 times that.
Prompts: cleaned as by open_clip's tokenizer (`clip_text`).
Comparison: Bradley-Terry with temperature 1/100, since training used log-odds of 100 · cos. With
temperature 1, every comparison would be nearly even.

Not to be confused with `hpsv3`, which is a vision-language model, or with `clipscore`, which is a
cosine of an untuned CLIP.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from capo.method.calibration import BradleyTerry
from capo.rewards.batch_scoring import float64
from capo.rewards.catalog import CLIP_VIT_H
from capo.rewards.models.clip_layout import drop_prefix, from_open_clip
from capo.rewards.models.clip_text import clean_text
from capo.rewards.models.clip_towers import ClipTowers
from capo.rewards.rgb_images import as_rgb
from capo.rewards.weights.load_weights import (
    component_location,
    load_component,
    load_from_weights,
    read_weights,
)

if TYPE_CHECKING:
    from PIL import Image


class HpsV2:
    """A fine-tuned CLIP in open_clip's layout (names with or without the prefix `model.`), in float32."""

    comparison = BradleyTerry(temperature=0.01)

    def __init__(
        self,
        name: str,
        checkpoint: str,
        device: Any,
        processor: str | None = None,
        *,
        antialias: bool = False,
    ) -> None:
        """Load weights from `checkpoint`; the rest from `processor`, else its folder, else ViT-H/14.

        Options:
            antialias: False resizes as the published scores were computed. True resizes as the
                official code does with torchvision 0.17 or later; scores differ by about 0.001.
        """
        from transformers import CLIPConfig, CLIPModel

        self.name = name
        location = component_location(checkpoint, processor, CLIP_VIT_H)
        config = load_component(CLIPConfig, location)
        weights = from_open_clip(drop_prefix(read_weights(checkpoint), "model."))
        model = load_from_weights(CLIPModel, config, weights, checkpoint, device, torch.float32)
        size = config.vision_config.image_size
        self._towers = ClipTowers(
            model, location, lambda images: torch.stack([letterbox(i, size, antialias) for i in images])
        )

    @torch.inference_mode()
    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """Return scores, float64 [n] in [-1, 1]. Prompts are cleaned, and cut at 77 tokens."""
        return float64(self._towers.cosine(images, [clean_text(prompt) for prompt in prompts]))

    def truncated(self, prompts: list[str]) -> list[bool]:
        """Return for each prompt whether it is longer than the model reads."""
        return self._towers.tokens.truncated([clean_text(prompt) for prompt in prompts])


def letterbox(image: "Image.Image", size: int, antialias: bool) -> Tensor:
    """Return pixel values [3, size, size]: the longest side resized to `size`, padded with black."""
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    pixels = torch.from_numpy(np.array(as_rgb(image))).permute(2, 0, 1)[None].float() / 255
    scale = size / max(pixels.shape[-2:])
    height, width = (max(1, round(side * scale)) for side in pixels.shape[-2:])
    if scale != 1:
        pixels = interpolate(pixels, (height, width), mode="bicubic", antialias=antialias)
    left, top = (size - width) // 2, (size - height) // 2
    whole = pad(pixels[0], (left, size - width - left, top, size - height - top))
    mean, std = (torch.tensor(v)[:, None, None] for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return (whole - mean) / std
