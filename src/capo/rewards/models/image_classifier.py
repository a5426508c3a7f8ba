"""Aesthetic rating by an image classifier with a single output. Ignores the prompt.

Architecture: any `AutoModelForImageClassification`, such as `CLIPForImageClassification`.
Score: the raw output, a rating on a scale of 1 to 10, like the paper's use of VILA (Sec. 5).
Comparison: Bradley-Terry with temperature 1 on that scale. A rater on [0, 1] needs temperature 0.1.

Not to be confused with `laion_aesthetic` and `siglip_aesthetic`, which are affine heads on a frozen
image embedding, or with `q_align`, which rates in words.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from capo.method.calibration import BradleyTerry
from capo.rewards.batch_scoring import float64
from capo.rewards.protocol import RewardError
from capo.rewards.rgb_images import as_rgb, crop_strip
from capo.rewards.weights.load_weights import load_component, load_model

if TYPE_CHECKING:
    from PIL import Image


class AestheticRating:
    """Any transformers image classifier with one output, in float32."""

    comparison = BradleyTerry(temperature=1.0)

    def __init__(self, name: str, checkpoint: str, device: Any, processor: str | None = None) -> None:
        """Load weights from `checkpoint`; the image processor from `processor` if set."""
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        self.name = name
        self._model = load_model(AutoModelForImageClassification, checkpoint, device, torch.float32)
        if self._model.config.num_labels != 1:
            raise RewardError(
                f"{checkpoint} has {self._model.config.num_labels} outputs; a rater needs one (num_labels=1)"
            )
        # Always resize with Pillow, because torchvision gives slightly different scores.
        self._image_processor = load_component(AutoImageProcessor, processor or checkpoint, backend="pil")

    @torch.inference_mode()
    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """Return scores, float64 [n]. `prompts` are ignored."""
        upright = [as_rgb(image) for image in images]
        if getattr(self._image_processor, "do_center_crop", False):
            upright = [crop_strip(image) for image in upright]
        pixels = self._image_processor(upright, return_tensors="pt")
        ratings: Tensor = self._model(pixels.pixel_values.to(self._model.device)).logits[:, 0]
        return float64(ratings)
