"""CycleReward: how well image and prompt can be reconstructed from each other.

Bahng, Chan et al., "Cycle Consistency as Reward" (2025); shipped checkpoint:
`carolineec/CycleReward-T2I`. The architecture is ImageReward's with GELUs in its head.
Score: the raw output, log-odds without normalization.
Comparison: Bradley-Terry with temperature 1, as in training.
Prompts are cut at 128 tokens, since the model is made for long captions.

Not to be confused with `image_reward`, which has the same layout but another head and a normalized
score.
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
    """BLIP with a head of five layers in the official layout, in float32."""

    comparison = BradleyTerry(temperature=1.0)

    def __init__(self, name: str, checkpoint: str, device: Any, processor: str | None = None) -> None:
        """Load weights from `checkpoint`; the tokenizer from `processor`, else its folder, else BERT."""
        self.name = name
        self._judge = load_judge(checkpoint, device, activation=nn.GELU)
        self._inputs = BlipInputs(checkpoint, processor, self._judge.blip, MAX_LENGTH)

    @torch.inference_mode()
    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """Return scores, float64 [n]."""
        return float64(self._judge(**self._inputs(images, prompts)))

    def truncated(self, prompts: list[str]) -> list[bool]:
        """Return for each prompt whether it has more tokens than the model reads."""
        return self._inputs.truncated(prompts)
