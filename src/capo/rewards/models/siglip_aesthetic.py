"""Aesthetic predictor v2.5: how people rate the look of an image, drawings included. Ignores the prompt.

discus0434, "aesthetic-predictor-v2-5" (2024), released as a pickle only.
Score: an affine map of the unit pooled embedding of SigLIP so400m/14 at 384 pixels, on a scale of 1 to
10 where 5.5 is a great score.
Comparison: Bradley-Terry with temperature 1 on that scale.

Not to be confused with `laion_aesthetic`, which has its head on CLIP.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from capo.method.calibration import BradleyTerry
from capo.rewards.catalog import SIGLIP_SO400M
from capo.rewards.models.affine_head import AffineHead, split_head, tower_location
from capo.rewards.models.clip_layout import vision_weights
from capo.rewards.rgb_images import as_rgb
from capo.rewards.weights.load_weights import load_component, load_from_weights, read_weights

if TYPE_CHECKING:
    from PIL import Image

LAYERS = (0, 2, 4, 6, 8)


class SiglipAesthetic:
    """The official head, alone or in a folder with its tower, in float32."""

    comparison = BradleyTerry(temperature=1.0)

    def __init__(self, name: str, checkpoint: str, device: Any, processor: str | None = None) -> None:
        """Load head and tower from `checkpoint`; a missing tower from `processor`, else so400m."""
        from transformers import SiglipConfig, SiglipVisionModel
        from transformers.models.siglip import SiglipImageProcessorPil

        self.name = name
        location = tower_location(checkpoint, processor, SIGLIP_SO400M)
        weights = {k.removeprefix("layers."): t for k, t in read_weights(checkpoint).items()}
        head, tower = split_head(weights, "scoring_head.")
        self._head = AffineHead(head, LAYERS, checkpoint)
        self._tower = load_from_weights(
            SiglipVisionModel,
            load_component(SiglipConfig, location).vision_config,
            vision_weights(tower or read_weights(location)),
            checkpoint if tower else location,
            device,
            torch.float32,
        )
        self._image_processor = load_component(SiglipImageProcessorPil, location)

    @torch.inference_mode()
    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """Return scores, float64 [n]. `prompts` are ignored."""
        pixels = self._image_processor([as_rgb(image) for image in images], return_tensors="pt").pixel_values
        return self._head(self._tower(pixels.to(self._tower.device)).pooler_output).numpy()
