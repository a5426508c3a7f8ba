"""Ratings in words: how good a vision-language model says that an image is, blind to its prompt.

Wu et al., "Q-Align" (2023), Sec. 3.3, as Q-ReAlign asks: after the stem of an answer, the softmax
over excellent, good, fair, poor and bad, weighted 1 to 0. Ratings in [0, 1]; two compare by
Bradley-Terry with temperature 0.1, which is temperature 1 on a scale of 1 to 10.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from capo.method.calibration import BradleyTerry
from capo.rewards.models.vision_language import VisionLanguageModel
from capo.rewards.protocol import RewardError

if TYPE_CHECKING:
    from PIL import Image

LEVELS = ("excellent", "good", "fair", "poor", "bad")
WEIGHTS = (1.0, 0.75, 0.5, 0.25, 0.0)


class LevelRating:
    """Any transformers image-text-to-text model that was taught to rate in five words."""

    comparison = BradleyTerry(temperature=0.1)

    def __init__(
        self,
        name: str,
        checkpoint: str,
        device: Any,
        processor: str | None = None,
        *,
        question: str = "How would you rate the quality of this image?",
        stem: str = "The quality of the image is",
    ) -> None:
        """Weights from `checkpoint`; tokenizer and image processor from `processor` if given.

        Options:
            question: what the model is asked.
            stem: the start of its answer, which the level ends.

        Raises:
            RewardError: for weights that cannot be used, and where two levels start alike.
        """
        self.name = name
        self._model = VisionLanguageModel(checkpoint, device, processor)
        self._text = self._model.ask(question) + stem
        tokenizer = self._model.tokenizer
        self._levels = [tokenizer(f" {word}", add_special_tokens=False).input_ids[0] for word in LEVELS]
        if len(set(self._levels)) < len(LEVELS):
            raise RewardError(f"{checkpoint}: its tokenizer does not tell {', '.join(LEVELS)} by their start")

    @torch.inference_mode()
    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """float64 [n] in [0, 1]; `prompts` are not looked at."""
        said = self._model.next_token(images, [self._text] * len(images))
        shares = said[:, self._levels].cpu().double().softmax(-1).numpy()
        return shares @ np.array(WEIGHTS)
