"""CLIPScore: how well CLIP itself, trained on captions and not on preferences, matches image and prompt.

Hessel et al., "CLIPScore" (2021). Three conventions are in use for the same cosine, so each
result says which it is:

    cosine      cos(image, text)                as T2I-CompBench
    scaled      100 · cos(image, text)          as most tables of text-to-image papers
    clipped     2.5 · max(cos(image, text), 0)  the paper's, here without its "A photo depicts"

CLIP was trained with log-odds of 100 · cos, so two cosines compare by Bradley-Terry with
temperature 1/100, and the other conventions with the same odds on their own scale.
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
"""What a cosine of 1 scores."""


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
        """Weights from `checkpoint`; tokenizer and image processor from `processor` if given."""
        from transformers import CLIPModel

        self.name = name
        self._convention = convention
        place = processor or checkpoint
        model = load_model(CLIPModel, checkpoint, device, torch.float32)
        self._towers = ClipTowers(model, place, clip_preparation(place))

    @staticmethod
    def comparison_with(convention: str = "cosine") -> BradleyTerry:
        """How scores of a convention compare."""
        return BradleyTerry(temperature=UNITS[convention] / LOGIT_SCALE)

    @torch.inference_mode()
    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """float64 [n] on the scale of the convention; long prompts are cut at 77 tokens."""
        cosine = float64(self._towers.cosine(images, prompts))
        if self._convention == "clipped":
            cosine = cosine.clip(min=0)
        return UNITS[self._convention] * cosine

    def truncated(self, prompts: list[str]) -> list[bool]:
        """Whether each prompt is longer than what the model reads."""
        return self._towers.tokens.truncated(prompts)
