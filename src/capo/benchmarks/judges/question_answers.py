"""Yes-or-no questions about an image, answered by any reward that scores a question from 0 to 1.

A vision-language model answers yes if it finds Yes more probable than No. A program answers as it likes, by
a score of 1 or 0: this is how mPLUG, the official judge of DPG-Bench, runs in an environment of its own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from capo.benchmarks.definition import JudgeImages, Judgment, failed
from capo.benchmarks.judges.reward_scores import BATCH_SIZE, check_reward, reward_section
from capo.prompts import Prompt
from capo.prompts.dpg_questions import PUBLISHED, QUESTIONS
from capo.recipe import RewardSection
from capo.rewards import load_reward, reward_identity, score_images

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from capo.rewards import Reward, Scored

TEMPLATE = "{} Answer yes or no."
YES = 0.5
"""Scores above this are a yes."""


@dataclass
class QuestionAnswers:
    """Asks the questions of a prompt about its images.

    A judgment has `questions` with their answers as `correct`, `answers` for the page, and as `score` the
    share of questions answered yes, before dependencies.
    """

    name: str
    reward: RewardSection
    official: bool = False

    @property
    def fingerprint(self) -> str:
        """The identity of the reward, with its question."""
        return f"{reward_identity(self.reward)}; above {YES:g}"

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise `ValueError` for prompts without questions, or a reward that cannot be loaded."""
        missing = [prompt for prompt in prompts if not prompt.metadata.get("questions")]
        if missing:
            item = missing[0].metadata.get("item_id", missing[0].text)
            raise ValueError(
                f"{len(missing)} of {len(prompts)} prompts have no questions, such as {item}: download "
                f"{QUESTIONS} ({PUBLISHED}) into the folder of the prompts or the one above it"
            )
        check_reward(self.reward)

    def load(self, device: "torch.device") -> JudgeImages:
        """Load the reward."""
        return partial(self._judge, load_reward(self.reward, device))

    def _judge(
        self, reward: "Reward", images: "Sequence[Image.Image]", prompts: Sequence[Prompt]
    ) -> list[Judgment]:
        asked = [(image, q) for image, p in zip(images, prompts, strict=True) for q in _questions(p)]
        shown = [image for image, _ in asked]
        scored = score_images(reward, shown, [q["question"] for _, q in asked], self.reward.batch_size)
        remaining = iter(scored)
        return [_judgment(_questions(prompt), remaining) for prompt in prompts]


def _questions(prompt: Prompt) -> Sequence[Mapping[str, Any]]:
    questions: Sequence[Mapping[str, Any]] = prompt.metadata["questions"]
    return questions


def _judgment(questions: Sequence[Mapping[str, Any]], scored: "Iterator[Scored]") -> Judgment:
    """Return the judgment of an image, from the next scores, one for each question."""
    pairs = [(question, next(scored)) for question in questions]
    answered, answers = [], []
    for question, one in pairs:
        if one.score is None:
            return failed(f"question {question['id']}: {one.error}")
        yes = one.score > YES
        answered.append({**question, "correct": yes})
        answer = {"question": question["question"], "answer": "yes" if yes else "no", "score": one.score}
        answers.append(answer)
    share = sum(question["correct"] for question in answered) / len(answered)
    return {"score": share, "questions": answered, "answers": answers}


def question_judge(title: str, source: str) -> Callable[..., QuestionAnswers]:
    """Return the factory of a judge by a shipped vision-language model, which is not the official one."""

    def make(
        *, checkpoint: str | None = None, template: str = TEMPLATE, batch_size: int = BATCH_SIZE
    ) -> QuestionAnswers:
        options = {"template": template, "normalize": "yes_no"}
        section = reward_section(
            source, source=source, checkpoint=checkpoint, options=options, batch_size=batch_size
        )
        return QuestionAnswers(f"{title} ({checkpoint})" if checkpoint else title, section)

    return make


def reward_questions(
    *, name: str, command: str | None = None, url: str | None = None, batch_size: int = BATCH_SIZE
) -> QuestionAnswers:
    """Return a judge by a program or server that scores questions; `name` is its name in tables.

    A program that is called `mplug` stands for the official judge.
    """
    if not (command or url):
        raise ValueError("command: name the program that answers, or set url")
    section = reward_section(name, command=command, url=url, batch_size=batch_size)
    return QuestionAnswers(name, section, official=name == "mplug")
