"""A vision-language model as a judge that writes an answer with a grade in it.

For models trained to reason about an image and end with a score, such as UnifiedReward, and for any
model that follows instructions.
Score: the number after the label, on the scale of the range (1 to 5 by default). An answer without
exactly one such number within the range has no score.
Comparison: Bradley-Terry with temperature 0.5, about a ninth of the default range, like 1 on a scale of
1 to 10. With another range, set `temperature` in the recipe.

Not to be confused with `vqascore`, which reads the probability of Yes, or with `q_align`, which rates in
words.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from capo.method.calibration import BradleyTerry
from capo.rewards.models.vision_language import VisionLanguageModel
from capo.rewards.protocol import RewardError

if TYPE_CHECKING:
    from PIL import Image

INSTRUCTION = (
    "This image was made for the following description.\n\n{prompt}\n\nJudge how much of the description "
    "the image shows, and how well it is made. Give your reasons in a few sentences. Then write a last line "
    "that holds nothing but `{label}: N`, where N is a number from {minimum} (nothing is right) to {maximum} "
    "(nothing could be better)."
)


class GeneratedScore:
    """Any transformers image-text-to-text model, decoded greedily."""

    comparison = BradleyTerry(temperature=0.5)

    def __init__(
        self,
        name: str,
        checkpoint: str,
        device: Any,
        processor: str | None = None,
        *,
        template: str | None = None,
        label: str = "Final Score",
        minimum: float = 1.0,
        maximum: float = 5.0,
        max_new_tokens: int = 512,
    ) -> None:
        """Load weights from `checkpoint`; tokenizer and image processor from `processor` if set.

        Options:
            template: a file with the instruction, with `{prompt}` in place of the prompt. None uses
                capo's own instruction.
            label: the text before the colon and the score.
            minimum: the lowest score.
            maximum: the highest score.
            max_new_tokens: the longest answer in tokens.

        Raises:
            RewardError: the weights, the template or the range cannot be used.
        """
        if not minimum < maximum:
            raise RewardError(f"minimum {minimum:g} must be below maximum {maximum:g}")
        self.name = name
        self._template = _read_template(template, label, minimum, maximum)
        self._label, self._range, self._length = label, (minimum, maximum), max_new_tokens
        self._model = VisionLanguageModel(checkpoint, device, processor)

    @torch.inference_mode()
    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """Return scores, float64 [n] within the range, NaN if the answer has no score."""
        texts = [self._model.ask(self._template.replace("{prompt}", prompt)) for prompt in prompts]
        answers = self._model.answers(images, texts, self._length)
        return np.array([parse_score(answer, self._label, *self._range) for answer in answers])


def parse_score(answer: str, label: str, minimum: float, maximum: float) -> float:
    """Return the number after `label` and a colon in `answer`, or NaN.

    NaN if there is no number, if it is out of range, or if several labels have different numbers.
    Emphasis marks are ignored. Fractions (4/5), percentages and ranges (3-4) do not count as numbers.
    """
    after = rf"(?<!\w){re.escape(label)}[*_`]*\s*:(.*)"
    number = re.compile(r"[\s*_`]*(-?\d+(?:\.\d+)?)[\s*_`]*\.?[\s*_`]*$")
    matches = [number.match(rest) for rest in re.findall(after, answer, re.IGNORECASE)]
    values = {float(match[1]) if match else float("nan") for match in matches}
    if len(values) != 1 or not minimum <= (value := values.pop()) <= maximum:
        return float("nan")
    return value


def _read_template(template: str | None, label: str, minimum: float, maximum: float) -> str:
    if template is None:
        values = {"label": label, "minimum": f"{minimum:g}", "maximum": f"{maximum:g}"}
        return INSTRUCTION.format(prompt="{prompt}", **values)
    try:
        text = Path(template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RewardError(f"template {template!r} cannot be read: {error}") from error
    if text.count("{prompt}") != 1:
        raise RewardError(
            f"template {template!r} must contain {{prompt}} exactly once, in place of the prompt"
        )
    return text
