"""ImageReward: which image of a prompt people prefer, learnt by BLIP.

Xu et al., "ImageReward" (2023), Sec. 3.1. The score is (r - mean) / spread, where r is what the
model was trained on by Bradley-Terry, so two scores compare with temperature 1 / spread. About
-2.3 to 2. Of a prompt the first 35 tokens are read, as by the official code.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from capo.method.calibration import BradleyTerry
from capo.rewards.batch_scoring import float64
from capo.rewards.models.blip import load_judge
from capo.rewards.models.blip_inputs import BlipInputs

if TYPE_CHECKING:
    from PIL import Image

MEAN, SPREAD = 0.16717362830052426, 1.0333394966054072
"""Of r, as the official code has them."""
MAX_LENGTH = 35


class ImageReward:
    """BLIP and an affine head in the official layout, in float32."""

    comparison = BradleyTerry(temperature=1 / SPREAD)

    def __init__(self, name: str, checkpoint: str, device: Any, processor: str | None = None) -> None:
        """Weights from `checkpoint`; the tokenizer from `processor`, else its folder, else BERT's."""
        self.name = name
        # Dropout lies between the official layers, and nothing when they are used.
        self._judge = load_judge(checkpoint, device, activation=nn.Identity)
        self._inputs = BlipInputs(checkpoint, processor, self._judge.blip, MAX_LENGTH)

    @torch.inference_mode()
    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """float64 [n]."""
        return (float64(self._judge(**self._inputs(images, prompts))) - MEAN) / SPREAD

    def truncated(self, prompts: list[str]) -> list[bool]:
        """Whether each prompt has more tokens than are read."""
        return self._inputs.truncated(prompts)
