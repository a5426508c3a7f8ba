"""CLIPScore: how well an image matches its prompt, by a CLIP trained on captions, not preferences.

Hessel et al., "CLIPScore" (2021); shipped checkpoint: `openai/clip-vit-large-patch14`.
Score: three conventions are in use, so the option `convention` is part of the reward's identity.

    cosine      cos(image, text)                as in T2I-CompBench
    scaled      100 · cos(image, text)          as in most tables of text-to-image papers
    clipped     2.5 · max(cos(image, text), 0)  as in the paper, but without its prefix "A photo depicts"

Comparison: Bradley-Terry. CLIP was trained with log-odds of 100 · cos, so the temperature is 1/100 for
cosines, and the other conventions give the same odds on their own scale.

Not to be confused with `clip_preference`, which is a CLIP fine-tuned on preferences.
"""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from capo.method.calibration import BradleyTerry
from capo.rewards.batch_scoring import float64
from capo.rewards.models.clip_towers import ClipTowers, clip_preparation
from capo.rewards.weights.load_weights import load_model

if TYPE_CHECKING:
    from PIL import Image

LOGIT_SCALE = 100.0
UNITS = {"cosine": 1.0, "scaled": 100.0, "clipped": 2.5}
"""The score of a cosine of 1, by convention."""


class ClipScore:
    """Any `transformers.CLIPModel` by its cosine, in float32."""

    comparison: ClassVar[BradleyTerry] = BradleyTerry(temperature=UNITS["cosine"] / LOGIT_SCALE)

    def __init__(
        self,
        name: str,
        checkpoint: str,
        device: Any,
        processor: str | None = None,
        *,
        convention: Literal["cosine", "scaled", "clipped"] = "cosine",
    ) -> None:
        """Load weights from `checkpoint`; tokenizer and image processor from `processor` if set."""
        from transformers import CLIPModel

        self.name = name
        self._convention = convention
        location = processor or checkpoint
        model = load_model(CLIPModel, checkpoint, device, torch.float32)
        self._towers = ClipTowers(model, location, clip_preparation(location))

    @staticmethod
    def comparison_with(convention: str = "cosine") -> BradleyTerry:
        """Return the comparison for scores of a convention."""
        return BradleyTerry(temperature=UNITS[convention] / LOGIT_SCALE)

    @torch.inference_mode()
    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """Return scores, float64 [n], on the scale of the convention. Prompts are cut at 77 tokens."""
        cosine = float64(self._towers.cosine(images, prompts))
        if self._convention == "clipped":
            cosine = cosine.clip(min=0)
        return UNITS[self._convention] * cosine

    def truncated(self, prompts: list[str]) -> list[bool]:
        """Return for each prompt whether it is longer than the model reads."""
        return self._towers.tokens.truncated(prompts)
