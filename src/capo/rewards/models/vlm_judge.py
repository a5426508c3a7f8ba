"""A vision-language model as a judge: it writes an answer, and the score is a number in it.

For models that were taught to reason about an image and end with a score, as UnifiedReward, and
for any that follow instructions. Only an answer that holds one number after the label, within the
range, is a score; every other is a missing one. Scores are on the range's own scale, 1 to 5 unless
told; two compare by Bradley-Terry with temperature 0.5, about a ninth of that range, as 1 is of
the scale of 1 to 10: give the recipe another `temperature` with another range.
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
    """Any transformers image-text-to-text model, which answers with its likeliest words."""

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
        """Weights from `checkpoint`; tokenizer and image processor from `processor` if given.

        Options:
            template: a file with the instruction, `{prompt}` where the prompt goes; an instruction
                of capo's own when None.
            label: what the model writes before a colon and the score.
            minimum: of the score.
            maximum: of the score.
            max_new_tokens: after which an answer is cut off.

        Raises:
            RewardError: for weights, a template or a range that cannot be used.
        """
        if not minimum < maximum:
            raise RewardError(f"minimum {minimum:g} must be below maximum {maximum:g}")
        self.name = name
        self._template = _read_template(template, label, minimum, maximum)
        self._label, self._range, self._length = label, (minimum, maximum), max_new_tokens
        self._model = VisionLanguageModel(checkpoint, device, processor)

    @torch.inference_mode()
    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """float64 [n] in the range, NaN where the answer holds no score."""
        texts = [self._model.ask(self._template.replace("{prompt}", prompt)) for prompt in prompts]
        answers = self._model.answers(images, texts, self._length)
        return np.array([parse_score(answer, self._label, *self._range) for answer in answers])


def parse_score(answer: str, label: str, minimum: float, maximum: float) -> float:
    """The number that `answer` holds after `label` and a colon; NaN unless there is one, in the range.

    A label may come several times if the number is the same each time. Marks of emphasis around it
    are passed over; fractions (4/5), percentages and ranges (3-4) are no scores.
    """
    after = rf"(?<!\w){re.escape(label)}[*_`]*\s*:(.*)"
    number = re.compile(r"[\s*_`]*(-?\d+(?:\.\d+)?)[\s*_`]*\.?[\s*_`]*$")
    found = [number.match(rest) for rest in re.findall(after, answer, re.IGNORECASE)]
    values = {float(match[1]) if match else float("nan") for match in found}
    if len(values) != 1 or not minimum <= (value := values.pop()) <= maximum:
        return float("nan")
    return value


def _read_template(template: str | None, label: str, minimum: float, maximum: float) -> str:
    if template is None:
        told = {"label": label, "minimum": f"{minimum:g}", "maximum": f"{maximum:g}"}
        return INSTRUCTION.format(prompt="{prompt}", **told)
    try:
        text = Path(template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RewardError(f"template {template!r} cannot be read: {error}") from error
    if text.count("{prompt}") != 1:
        raise RewardError(f"template {template!r} must hold {{prompt}} once, where the prompt goes")
    return text
