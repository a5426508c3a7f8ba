"""LAION aesthetic predictor v2: how good an image looks, blind to its prompt.

Schuhmann, "improved-aesthetic-predictor" (2022), `sac+logos+ava1-l14-linearMSE`: an affine map of
the unit image embedding of OpenAI's CLIP ViT-L/14, fitted to ratings of 1 to 10, about 3 to 8. Two
ratings compare by Bradley-Terry with temperature 1 on that scale.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from capo.method.calibration import BradleyTerry
from capo.rewards.catalog import CLIP_VIT_L
from capo.rewards.models.affine_head import AffineHead, split_head, tower_place
from capo.rewards.models.clip_layout import drop_prefix, vision_side
from capo.rewards.models.clip_towers import clip_preparation
from capo.rewards.weights.load_weights import load_component, load_from_weights, read_weights

if TYPE_CHECKING:
    from PIL import Image

LAYERS = (0, 2, 4, 6, 7)
"""Dropout lies between, and ReLU in other releases, which have other numbers."""


class LaionAesthetic:
    """The official head file, alone or in a folder or file with its tower, in float32."""

    comparison = BradleyTerry(temperature=1.0)

    def __init__(self, name: str, checkpoint: str, device: Any, processor: str | None = None) -> None:
        """The head from `checkpoint`, the tower too if it is there; else from `processor`, else ViT-L/14."""
        from transformers import CLIPConfig, CLIPVisionModelWithProjection

        self.name = name
        place = tower_place(checkpoint, processor, CLIP_VIT_L)
        weights = read_weights(checkpoint)
        head, tower = split_head({k.removeprefix("mlp."): t for k, t in weights.items()}, "layers.")
        self._head = AffineHead(head, LAYERS, checkpoint)
        config = load_component(CLIPConfig, place)
        config.vision_config.projection_dim = config.projection_dim
        self._tower = load_from_weights(
            CLIPVisionModelWithProjection,
            config.vision_config,
            vision_side(drop_prefix(tower, "clip.") or read_weights(place)),
            checkpoint if tower else place,
            device,
            torch.float32,
        )
        self._prepare = clip_preparation(place)

    @torch.inference_mode()
    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """float64 [n]; `prompts` are not looked at."""
        embeddings = self._tower(self._prepare(images).to(self._tower.device)).image_embeds
        return self._head(embeddings).numpy()
