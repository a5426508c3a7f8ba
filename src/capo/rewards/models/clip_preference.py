"""PickScore and other preference models that are plain CLIP models.

Kirstain et al., "Pick-a-Pic" (2023), Sec. 4; shipped checkpoint: `yuvalkirstain/PickScore_v1`.
Score: `exp(logit_scale) · cos(image, text)` of a fine-tuned CLIP, on a log-odds scale, about 16 to
25 for PickScore.
Comparison: Bradley-Terry with temperature 1.

Not to be confused with the bare cosine (`clipscore`, `hpsv2`) or with the score divided by 26. Both
make every comparison nearly even.
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
    """Any `transformers.CLIPModel` by its scaled cosine, in float32."""

    comparison = BradleyTerry(temperature=1.0)

    def __init__(self, name: str, checkpoint: str, device: Any, processor: str | None = None) -> None:
        """Load weights from `checkpoint`; tokenizer and image processor from `processor` if set."""
        from transformers import CLIPModel

        self.name = name
        self._model = load_model(CLIPModel, checkpoint, device, torch.float32)
        location = processor or checkpoint
        self._towers = ClipTowers(self._model, location, clip_preparation(location))

    @torch.inference_mode()
    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """Return scores, float64 [n]. Prompts are cut at the length of the model, 77 tokens for CLIP."""
        scores: Tensor = self._model.logit_scale.exp() * self._towers.cosine(images, prompts)
        return float64(scores)

    def truncated(self, prompts: list[str]) -> list[bool]:
        """Return for each prompt whether it is longer than the model reads."""
        return self._towers.tokens.truncated(prompts)
