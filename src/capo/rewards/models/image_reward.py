"""ImageReward: which image people prefer for a prompt, by BLIP.

Xu et al., "ImageReward" (2023), Sec. 3.1; shipped checkpoint: `THUDM/ImageReward`.
Score: (r - mean) / standard deviation, where r is the output that was trained with Bradley-Terry;
about -2.3 to 2.
Comparison: Bradley-Terry with temperature 1 / standard deviation, which compares r with temperature 1.
Prompts are cut at 35 tokens, as in the official code.

Not to be confused with `cycle_reward`, which has the same layout but is not normalized.
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

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Mean and standard deviation of r in the official code."""
MAX_LENGTH = 35


class ImageReward:
    """BLIP with an affine head in the official layout, in float32."""

    comparison = BradleyTerry(temperature=1 / STD)

    def __init__(self, name: str, checkpoint: str, device: Any, processor: str | None = None) -> None:
        """Load weights from `checkpoint`; the tokenizer from `processor`, else its folder, else BERT."""
        self.name = name
        # The official layers have only dropout between them, which does nothing at inference.
        self._judge = load_judge(checkpoint, device, activation=nn.Identity)
        self._inputs = BlipInputs(checkpoint, processor, self._judge.blip, MAX_LENGTH)

    @torch.inference_mode()
    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """Return scores, float64 [n]."""
        return (float64(self._judge(**self._inputs(images, prompts))) - MEAN) / STD

    def truncated(self, prompts: list[str]) -> list[bool]:
        """Return for each prompt whether it has more tokens than the model reads."""
        return self._inputs.truncated(prompts)
