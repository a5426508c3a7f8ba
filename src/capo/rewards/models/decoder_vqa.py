"""VQAScore by a vision encoder whose text decoder reads the question, like Donut.

Checkpoint: any `VisionEncoderDecoderModel` trained to answer yes or no.
Score: P(" Yes") in [0, 1], the softmax over the whole vocabulary at the first position of the answer.
Comparison: power ratio with exponent 1.

Not to be confused with `vqascore`, whose models read image and question in one sequence.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from capo.method.calibration import PowerRatio
from capo.rewards.batch_scoring import float64
from capo.rewards.models.vqascore import QUESTION, answer_tokens
from capo.rewards.rgb_images import as_rgb
from capo.rewards.weights.load_weights import load_component, load_model

if TYPE_CHECKING:
    from PIL import Image


class DecoderVqaScore:
    """Any transformers `VisionEncoderDecoderModel` trained to answer yes or no."""

    comparison = PowerRatio(exponent=1.0)

    def __init__(self, name: str, checkpoint: str, device: Any, processor: str | None = None) -> None:
        """Load weights from `checkpoint`; tokenizer and image processor from `processor` if set."""
        from transformers import AutoImageProcessor, AutoTokenizer, VisionEncoderDecoderModel

        self.name = name
        self._model = load_model(VisionEncoderDecoderModel, checkpoint, device, torch.float32)
        self._images = load_component(AutoImageProcessor, processor or checkpoint, backend="pil")
        self._tokenizer = load_component(AutoTokenizer, processor or checkpoint)
        # The decoder is causal, so padding on the right changes nothing.
        self._tokenizer.padding_side = "right"
        (self._answer,) = answer_tokens(self._tokenizer, QUESTION.format("a"))

    @torch.inference_mode()
    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """Return scores, float64 [n] in [0, 1]. Questions are cut at the length of the decoder."""
        device = self._model.device
        pixels = self._images([as_rgb(image) for image in images], return_tensors="pt").pixel_values
        coded = self._tokenizer(_questions(prompts), padding=True, truncation=True, return_tensors="pt")
        tokens, last = coded.input_ids.to(device), coded.attention_mask.sum(dim=1) - 1
        logits = self._model(pixel_values=pixels.to(device), decoder_input_ids=tokens).logits
        answers = logits[torch.arange(len(prompts)), last].float()
        return float64(answers.softmax(-1)[:, self._answer])

    def truncated(self, prompts: list[str]) -> list[bool]:
        """Return for each prompt whether its question is longer than the decoder reads."""
        whole = self._tokenizer(_questions(prompts), verbose=False).input_ids
        return [len(ids) > self._tokenizer.model_max_length for ids in whole]


def _questions(prompts: list[str]) -> list[str]:
    return [QUESTION.format(prompt) for prompt in prompts]
