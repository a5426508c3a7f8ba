"""VQAScore: the probability that a vision-language model answers yes.

Lin et al., "Evaluating Text-to-Visual Generation with Image-to-Text Generation" (2024), with the
official question. The score is P(answer token) in [0, 1] at the first position of the answer, so
two scores compare by the power ratio with exponent 1 (Eq. 28). Not to be confused with the score
of CLIP-FlanT5 (`clip_t5`), which also counts the end token and is about the square root of this.
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
        """Weights from `checkpoint`; tokenizer and image processor from `processor` if given.

        Options:
            template: the question, with `{}` where the prompt goes.
            answer: whose probability is the score.
            normalize: `full`, over the whole vocabulary, as the official code; `yes_no`, over
                Yes and No alone, as others do: higher where the model would say something else.

        Raises:
            RewardError: for weights, a template or an answer that cannot be used.
        """
        self.name = name
        self._template = checked_template(template)
        self._model = VisionLanguageModel(checkpoint, device, processor)
        self._answers = answer_tokens(self._model.tokenizer, self._ask("a"), _answers(answer, normalize))

    @torch.inference_mode()
    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """float64 [n] in [0, 1]; raises `ValueError` for a prompt that holds the image token."""
        said = self._model.next_token(images, [self._ask(prompt) for prompt in prompts])
        answer = said[:, self._answers]
        if len(self._answers) > 1:
            answer = answer.log_softmax(-1)
        return answer[:, 0].cpu().double().exp().numpy()

    def _ask(self, prompt: str) -> str:
        return self._model.ask(self._template.replace("{}", prompt))


def checked_template(template: str) -> str:
    """`template`; raises `RewardError` unless it has one place for the prompt."""
    if template.count("{}") != 1:
        raise RewardError(f"template {template!r} must hold {{}} once, where the prompt goes")
    return template


def answer_tokens(tokenizer: Any, text: str, answers: tuple[str, ...] = ("Yes",)) -> list[int]:
    """The tokens with which each of `answers` goes on after `text`.

    As the tokenizer splits `text + answer` for the spellings " Yes", "Yes", " yes", "yes" (after
    white space those without a leading space only): the first in which each is one known token.
    """
    before = tokenizer(text, add_special_tokens=False).input_ids
    for spell in (" {}".format, str, lambda word: f" {word.lower()}", str.lower):
        spelt = [spell(answer) for answer in answers]
        if spelt[0].startswith(" ") and text[-1].isspace():
            continue
        split = [tokenizer(text + word, add_special_tokens=False).input_ids for word in spelt]
        if all(ids[:-1] == before and ids[-1] != tokenizer.unk_token_id for ids in split):
            return [int(ids[-1]) for ids in split]
    words = " and ".join(f"{answer} or {answer.lower()}" for answer in answers)
    raise RewardError(f"{tokenizer.name_or_path}: its tokenizer has no single token for {words}")


def _answers(answer: str, normalize: str) -> tuple[str, ...]:
    """The answers that are compared, that which counts first."""
    if normalize == "full":
        return (answer,)
    if answer not in OPPOSITES:
        raise RewardError(f"normalize: yes_no needs the answer Yes or No, not {answer!r}")
    return answer, OPPOSITES[answer]
