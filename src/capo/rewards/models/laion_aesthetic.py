"""LAION aesthetic predictor v2: how people rate the look of an image. Ignores the prompt.

Schuhmann, "improved-aesthetic-predictor" (2022), `sac+logos+ava1-l14-linearMSE`; shipped checkpoint:
`RE-N-Y/laion-aesthetic`, a port to safetensors.
Score: an affine map of the unit image embedding of OpenAI's CLIP ViT-L/14, fitted to ratings of 1 to
10; about 3 to 8.
Comparison: Bradley-Terry with temperature 1 on that scale.

Not to be confused with `siglip_aesthetic`, the same idea on another tower, or with the releases of this
predictor that have ReLU in the head and give other numbers.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from capo.method.calibration import BradleyTerry
from capo.rewards.catalog import CLIP_VIT_L
from capo.rewards.models.affine_head import AffineHead, split_head, tower_location
from capo.rewards.models.clip_layout import drop_prefix, vision_weights
from capo.rewards.models.clip_towers import clip_preparation
from capo.rewards.weights.load_weights import load_component, load_from_weights, read_weights

if TYPE_CHECKING:
    from PIL import Image

LAYERS = (0, 2, 4, 6, 7)
"""Positions of the linear layers, with dropout between them. Releases with ReLU have other positions."""


class LaionAesthetic:
    """The official head, alone or together with its tower, in float32."""

    comparison = BradleyTerry(temperature=1.0)

    def __init__(self, name: str, checkpoint: str, device: Any, processor: str | None = None) -> None:
        """Load head and tower from `checkpoint`; a missing tower from `processor`, else ViT-L/14."""
        from transformers import CLIPConfig, CLIPVisionModelWithProjection

        self.name = name
        location = tower_location(checkpoint, processor, CLIP_VIT_L)
        weights = read_weights(checkpoint)
        head, tower = split_head({k.removeprefix("mlp."): t for k, t in weights.items()}, "layers.")
        self._head = AffineHead(head, LAYERS, checkpoint)
        config = load_component(CLIPConfig, location)
        config.vision_config.projection_dim = config.projection_dim
        self._tower = load_from_weights(
            CLIPVisionModelWithProjection,
            config.vision_config,
            vision_weights(drop_prefix(tower, "clip.") or read_weights(location)),
            checkpoint if tower else location,
            device,
            torch.float32,
        )
        self._prepare = clip_preparation(location)

    @torch.inference_mode()
    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """Return scores, float64 [n]. `prompts` are ignored."""
        embeddings = self._tower(self._prepare(images).to(self._tower.device)).image_embeds
        return self._head(embeddings).numpy()
