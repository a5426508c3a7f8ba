"""Soft-TIFA: how probable a vision-language model finds the right answer to every question about an image.

Kamath et al., "GenEval 2" (2025). Official: Qwen3-VL-8B-Instruct. The probability of an answer is that of the
first token of each of its spellings, out of the whole vocabulary, summed.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from capo.benchmarks.definition import JudgeImages, Judgment, failed
from capo.prompts import Prompt
from capo.recipe.hub_id import split_revision
from capo.rewards.catalog import QWEN3_VL_8B
from capo.rewards.weights.download import check_available
from capo.rewards.weights.location import check_location, weights_identity

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from capo.rewards.models.vision_language import VisionLanguageModel

SKILLS = ("object", "attribute", "count", "position", "verb")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
INSTRUCTION = "{} Answer in one word."
RULES = "soft-tifa-1"
"""Changes with everything that changes a score, other than the weights."""
SAME = 1e-6
"""Relative difference of probabilities below which two answers count as the same."""


class SoftTifa:
    """Asks a vision-language model every question of a prompt, one at a time, as the official script does."""

    def __init__(self, checkpoint: str = QWEN3_VL_8B) -> None:
        """Ask the model at `checkpoint`, a folder or Hub id of an image-text-to-text model.

        Raises `ValueError` if it is neither.
        """
        check_location("geneval2", checkpoint)
        self._checkpoint = checkpoint

    @property
    def official(self) -> bool:
        """True for Qwen3-VL-8B-Instruct from the Hub."""
        return split_revision(self._checkpoint)[0] == split_revision(QWEN3_VL_8B)[0]

    @property
    def name(self) -> str:
        """`Soft-TIFA` for the official model; any other is named."""
        return "Soft-TIFA" if self.official else f"Soft-TIFA ({split_revision(self._checkpoint)[0]})"

    @property
    def fingerprint(self) -> str:
        """Rules and weights."""
        return f"{RULES} {weights_identity('geneval2', self._checkpoint)}"

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise `ValueError` for a prompt without questions, and for weights that cannot be had."""
        for prompt in prompts:
            try:
                check_questions(prompt.metadata)
            except ValueError as error:
                raise ValueError(f"Soft-TIFA cannot judge {prompt.text!r}: {error}") from None
        check_available(self._checkpoint)

    def load(self, device: "torch.device") -> JudgeImages:
        """Load the model onto a device, and ask it the trial questions.

        Raises `RewardError` if it cannot be loaded, and `ValueError` if it ignores images or questions.
        """
        from capo.rewards.models.vision_language import VisionLanguageModel

        ask = QuestionAsker(VisionLanguageModel(self._checkpoint, device))
        check_attention(ask, self._checkpoint)

        def judge(images: "Sequence[Image.Image]", prompts: Sequence[Prompt]) -> list[Judgment]:
            return [_judge(ask, *pair) for pair in zip(images, prompts, strict=True)]

        return judge


def spellings(question: str, answer: str) -> list[str]:
    """Return the spellings of an answer whose probabilities count."""
    if not question.startswith("How many"):
        return ["Yes", "yes", " yes", " Yes"]
    digit = str(NUMBERS.index(answer) + 1)
    return [answer, answer.capitalize(), f" {answer}", f" {answer.capitalize()}", digit, f" {digit}"]


def check_questions(metadata: Mapping[str, Any]) -> None:
    """Raise `ValueError` unless `vqa_list` and `skills` are questions and skills as GenEval 2 has them."""
    questions, skills = metadata.get("vqa_list"), metadata.get("skills")
    if not questions or not isinstance(questions, list) or not isinstance(skills, list):
        raise ValueError("vqa_list and skills must be lists of questions and of their skills")
    if len(questions) != len(skills):
        raise ValueError(f"vqa_list has {len(questions)} questions, but skills has {len(skills)} skills")
    for skill in skills:
        if skill not in SKILLS:
            raise ValueError(f"unknown skill {skill!r}; the skills are {', '.join(SKILLS)}")
    for pair in questions:
        match pair:
            case [str(question), str(answer)]:
                if question.startswith("How many") and answer not in NUMBERS:
                    raise ValueError(f"the answer to {question!r} must be a number from one to ten")
            case _:
                raise ValueError(f"vqa_list must hold pairs of question and answer, not {pair!r}")


class QuestionAsker:
    """A vision-language model that is asked for the probability of answers."""

    def __init__(self, model: "VisionLanguageModel") -> None:
        self._model = model

    def __call__(self, image: "Image.Image", question: str, answer: str) -> dict[str, Any]:
        """Return `score`, `deduplicated` and `said`, the most probable token.

        The official score adds the probability of a token for every spelling that begins with it;
        `deduplicated` adds it once. Raises `ValueError` if the output is not finite.
        """
        log_probabilities = self._model.next_token([image], [self._model.ask(INSTRUCTION.format(question))])[
            0
        ]
        probabilities = log_probabilities.exp()
        if not bool(probabilities.isfinite().all()):
            raise ValueError("the model's output is not finite")
        tokens = [self._first_token(text) for text in spellings(question, answer)]
        return {
            "score": sum(probabilities[tokens].tolist()),
            "deduplicated": sum(probabilities[list(dict.fromkeys(tokens))].tolist()),
            "said": self._model.tokenizer.decode([int(probabilities.argmax())]),
        }

    def _first_token(self, text: str) -> int:
        first: int = self._model.tokenizer.encode(text, add_special_tokens=False)[0]
        return first


def check_attention(ask: QuestionAsker, name: str) -> None:
    """Raise `ValueError` if a model's answers do not depend on the question, or not on the image.

    Such a model would give every image of a benchmark the same scores. Weights that do not fit, a wrong chat
    template or a missing image token can cause it.
    """
    red, blue = _square("red"), _square("blue")
    questions = ("Is the square red?", "Is the square blue?")
    on_red = [ask(red, question, "Yes")["score"] for question in questions]
    on_blue = [ask(blue, question, "Yes")["score"] for question in questions]
    if _same(*on_red) and _same(*on_blue):
        raise ValueError(f"{name} ignores the questions: it gives different ones the same answer")
    if _same(on_red[0], on_blue[0]) and _same(on_red[1], on_blue[1]):
        raise ValueError(f"{name} ignores the images: it gives the same answer on different ones")


def _judge(ask: QuestionAsker, image: "Image.Image", prompt: Prompt) -> Judgment:
    """Return the `answers` to all questions, and their geometric mean as `score`."""
    answers = []
    pairs = zip(prompt.metadata["vqa_list"], prompt.metadata["skills"], strict=True)
    for (question, answer), skill in pairs:
        try:
            scores = ask(image, question, answer)
        except ValueError as error:
            return failed(f"{question} {error}")
        answers.append({"question": question, "answer": answer, "skill": skill, **scores})
    return {"score": geometric_mean([answer["score"] for answer in answers]), "answers": answers}


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of numbers that are not negative; 0 if any is 0."""
    return math.exp(math.fsum(map(math.log, values)) / len(values)) if all(values) else 0.0


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=SAME)


def _square(color: str) -> "Image.Image":
    """Return a picture of a square on white."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (448, 448), "white")
    ImageDraw.Draw(image).rectangle((112, 112, 336, 336), fill=color)
    return image
