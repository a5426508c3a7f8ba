"""VQAScore: the probability that a vision-language model answers yes.

Lin et al., "Evaluating Text-to-Visual Generation with Image-to-Text Generation" (2024), with the official
question; shipped checkpoints: LLaVA 1.5 7B and Qwen3-VL-8B.
Score: P(answer token) in [0, 1] at the first position of the answer.
Comparison: power ratio with exponent 1 (Eq. 28 of CaPO).

Not to be confused with the score of CLIP-FlanT5 (`clip_t5`), which also counts the end token and is about
the square root of this score.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from capo.method.calibration import PowerRatio
from capo.rewards.models.vision_language import VisionLanguageModel
from capo.rewards.protocol import RewardError

if TYPE_CHECKING:
    from PIL import Image

QUESTION = 'Does this figure show "{}"? Please answer yes or no.'
OPPOSITES = {"Yes": "No", "No": "Yes"}


class VqaScore:
    """Any transformers image-text-to-text model."""

    comparison = PowerRatio(exponent=1.0)

    def __init__(
        self,
        name: str,
        checkpoint: str,
        device: Any,
        processor: str | None = None,
        *,
        template: str = QUESTION,
        answer: str = "Yes",
        normalize: Literal["full", "yes_no"] = "full",
    ) -> None:
        """Load weights from `checkpoint`; tokenizer and image processor from `processor` if set.

        Options:
            template: the question, with `{}` in place of the prompt.
            answer: the answer whose probability is the score.
            normalize: `full` is over the whole vocabulary, as in the official code. `yes_no` is over
                Yes and No only, which is higher if the model would rather say something else.

        Raises:
            RewardError: the weights, the template or the answer cannot be used.
        """
        self.name = name
        self._template = checked_template(template)
        self._model = VisionLanguageModel(checkpoint, device, processor)
        self._answers = answer_tokens(self._model.tokenizer, self._ask("a"), _answers(answer, normalize))

    @torch.inference_mode()
    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """Return scores, float64 [n] in [0, 1]. A prompt with the image token raises `ValueError`."""
        log_probabilities = self._model.next_token(images, [self._ask(prompt) for prompt in prompts])
        answer = log_probabilities[:, self._answers]
        if len(self._answers) > 1:
            answer = answer.log_softmax(-1)
        return answer[:, 0].cpu().double().exp().numpy()

    def _ask(self, prompt: str) -> str:
        return self._model.ask(self._template.replace("{}", prompt))


def checked_template(template: str) -> str:
    """Return `template`. Raises `RewardError` unless it has exactly one `{}`."""
    if template.count("{}") != 1:
        raise RewardError(f"template {template!r} must contain {{}} exactly once, in place of the prompt")
    return template


def answer_tokens(tokenizer: Any, text: str, answers: tuple[str, ...] = ("Yes",)) -> list[int]:
    """Return the token that continues `text` for each of `answers`.

    Tries the spellings " Yes", "Yes", " yes" and "yes" (after white space only those without a leading
    space) and takes the first in which every answer is one known token after `text`.
    """
    before = tokenizer(text, add_special_tokens=False).input_ids
    for spell in (" {}".format, str, lambda word: f" {word.lower()}", str.lower):
        spelled = [spell(answer) for answer in answers]
        if spelled[0].startswith(" ") and text[-1].isspace():
            continue
        split = [tokenizer(text + word, add_special_tokens=False).input_ids for word in spelled]
        if all(ids[:-1] == before and ids[-1] != tokenizer.unk_token_id for ids in split):
            return [int(ids[-1]) for ids in split]
    words = " and ".join(f"{answer} or {answer.lower()}" for answer in answers)
    raise RewardError(f"{tokenizer.name_or_path}: its tokenizer has no single token for {words}")


def _answers(answer: str, normalize: str) -> tuple[str, ...]:
    """Return the answers that are compared, starting with the one that counts."""
    if normalize == "full":
        return (answer,)
    if answer not in OPPOSITES:
        raise RewardError(f"normalize: yes_no needs the answer Yes or No, got {answer!r}")
    return answer, OPPOSITES[answer]
