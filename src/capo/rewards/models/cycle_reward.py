"""CycleReward: how well image and prompt can be told from each other, learnt by BLIP.

Bahng, Chan et al., "Cycle Consistency as Reward" (2025): the architecture of ImageReward with
GELUs in its head, trained by Bradley-Terry, without normalisation. Two scores compare with
temperature 1. Made for long captions: of a prompt the first 128 tokens are read.
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

MAX_LENGTH = 128


class CycleReward:
    """BLIP and a head of five layers in the official layout, in float32."""

    comparison = BradleyTerry(temperature=1.0)

    def __init__(self, name: str, checkpoint: str, device: Any, processor: str | None = None) -> None:
        """Weights from `checkpoint`; the tokenizer from `processor`, else its folder, else BERT's."""
        self.name = name
        self._judge = load_judge(checkpoint, device, activation=nn.GELU)
        self._inputs = BlipInputs(checkpoint, processor, self._judge.blip, MAX_LENGTH)

    @torch.inference_mode()
    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """float64 [n]."""
        return float64(self._judge(**self._inputs(images, prompts)))

    def truncated(self, prompts: list[str]) -> list[bool]:
        """Whether each prompt has more tokens than are read."""
        return self._inputs.truncated(prompts)
