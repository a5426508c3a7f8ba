"""CLIP-type preference models: PickScore and its like.

Kirstain et al., "Pick-a-Pic" (2023), Sec. 4. The score is `exp(logit_scale) · cos(image, text)`
of a fine-tuned CLIP: a log-odds scale, about 16 to 25 for PickScore, so two scores compare by
Bradley-Terry with temperature 1. Not to be confused with the bare cosine or a score divided by
26, which flatten every comparison.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from capo.method.calibration import BradleyTerry
from capo.rewards.batch_scoring import float64
from capo.rewards.models.clip_towers import ClipTowers, clip_preparation
from capo.rewards.weights.load_weights import load_model

if TYPE_CHECKING:
    from PIL import Image


class ClipPreference:
    """`transformers.CLIPModel` as a judge of text and image, in float32."""

    comparison = BradleyTerry(temperature=1.0)

    def __init__(self, name: str, checkpoint: str, device: Any, processor: str | None = None) -> None:
        """Weights from `checkpoint`; tokenizer and image processor from `processor` if given."""
        from transformers import CLIPModel

        self.name = name
        self._model = load_model(CLIPModel, checkpoint, device, torch.float32)
        place = processor or checkpoint
        self._towers = ClipTowers(self._model, place, clip_preparation(place))

    @torch.inference_mode()
    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """float64 [n]; longer prompts are cut at the model's own length (77 tokens for CLIP)."""
        scores: Tensor = self._model.logit_scale.exp() * self._towers.cosine(images, prompts)
        return float64(scores)

    def truncated(self, prompts: list[str]) -> list[bool]:
        """Whether each prompt is longer than what the model reads."""
        return self._towers.tokens.truncated(prompts)
