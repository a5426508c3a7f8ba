"""Q-Align and Q-ReAlign: a vision-language model rates an image in words. Ignores the prompt.

Wu et al., "Q-Align" (2023), Sec. 3.3, with the questions of Q-ReAlign; shipped checkpoint:
`q-future/Q-ReAlign-Lite-4B`.
Score: after the stem of an answer, the softmax over excellent, good, fair, poor and bad, weighted 1 to
0; in [0, 1].
Comparison: Bradley-Terry with temperature 0.1, which is temperature 1 on a scale of 1 to 10.

Not to be confused with `vlm_judge`, which reads a number from a written answer. OneAlign needs code from
the Hub, which capo does not run.
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
    """Any transformers image-text-to-text model trained to rate in five words."""

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
        """Load weights from `checkpoint`; tokenizer and image processor from `processor` if set.

        Options:
            question: the question about the image.
            stem: the start of the answer, which the level completes.

        Raises:
            RewardError: the weights cannot be used, or two levels start with the same token.
        """
        self.name = name
        self._model = VisionLanguageModel(checkpoint, device, processor)
        self._text = self._model.ask(question) + stem
        tokenizer = self._model.tokenizer
        self._levels = [tokenizer(f" {word}", add_special_tokens=False).input_ids[0] for word in LEVELS]
        if len(set(self._levels)) < len(LEVELS):
            raise RewardError(f"{checkpoint}: two of {', '.join(LEVELS)} start with the same token")

    @torch.inference_mode()
    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """Return scores, float64 [n] in [0, 1]. `prompts` are ignored."""
        log_probabilities = self._model.next_token(images, [self._text] * len(images))
        shares = log_probabilities[:, self._levels].cpu().double().softmax(-1).numpy()
        return shares @ np.array(WEIGHTS)
