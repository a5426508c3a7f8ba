"""Questions about drawn scenes: what a prompt asks for, whether the scene shows it, and where.

In addition to its answer, a question records how many shapes of the scene match each subject of its prompt
and where they are. A reward that also learns these looks at the right place before it compares places.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from capo.shapes.build.tokenizers import QUESTION, QUESTION_LENGTH
from capo.shapes.grammar import Spec
from capo.shapes.scenes import SIZE, Scene

SUBJECTS = 2
"""Most subjects of a prompt."""


@dataclass(frozen=True)
class Questions:
    """Encoded questions with answers, n in all."""

    tokens: Tensor
    """int64 `[n, QUESTION_LENGTH]`, padded on the right; the last token of a question is its answer."""
    ends: Tensor
    """int64 `[n, SUBJECTS]`: index of the token that ends each subject; 0 if there is none."""
    counts: Tensor
    """int64 `[n, SUBJECTS]`: how many shapes of the scene match the subject; -1 if there is none."""
    centers: Tensor
    """`[n, SUBJECTS, 2]`: mean center (x, y) of these shapes, -1 to 1 over the image."""

    def __getitem__(self, index: Tensor) -> "Questions":
        return Questions(self.tokens[index], self.ends[index], self.counts[index], self.centers[index])

    def to(self, device: str) -> "Questions":
        """Return the questions on another device."""
        return Questions(*(part.to(device) for part in self._parts()))

    def joined(self, other: "Questions") -> "Questions":
        """Return these questions and then the others."""
        return Questions(*map(torch.cat, zip(self._parts(), other._parts(), strict=True)))

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.tokens, self.ends, self.counts, self.centers


def ask(
    tokenizer: PreTrainedTokenizerFast, specs: list[Spec], scenes: list[Scene], answers: list[str]
) -> Questions:
    """Encode one question per scene with its answer."""
    pairs = list(zip(specs, answers, strict=True))
    texts = [QUESTION.format(prompt=spec.text) + answer for spec, answer in pairs]
    coded = tokenizer(texts, padding="max_length", max_length=QUESTION_LENGTH, return_offsets_mapping=True)
    ends = torch.zeros(len(texts), SUBJECTS, dtype=torch.long)
    counts = torch.full((len(texts), SUBJECTS), -1)
    centers = torch.zeros(len(texts), SUBJECTS, 2)
    for row, (text, spec, scene) in enumerate(zip(texts, specs, scenes, strict=True)):
        token_at = {end: token for token, (_, end) in enumerate(coded.offset_mapping[row])}
        place = 0
        for column, subject in enumerate(spec.subjects):
            place = text.index(subject.text, place) + len(subject.text)
            ends[row, column] = token_at[place]
            matching = [
                i for i in scene.items if i.shape == subject.shape and subject.color in (None, i.color)
            ]
            counts[row, column] = len(matching)
            if matching:
                mean = [
                    sum(values) / len(matching)
                    for values in zip(*((i.x, i.y) for i in matching), strict=True)
                ]
                centers[row, column] = torch.tensor(mean) / (SIZE / 2) - 1
    return Questions(torch.tensor(coded.input_ids), ends, counts, centers)
