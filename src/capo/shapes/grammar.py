"""The grammar of prompts in GenEval's six categories, with disjoint splits.

A prompt is an opening ("a drawing of"), its content ("a red circle left of a square") and a
background or none. Its metadata follows GenEval's layout, and the judge reads it as GenEval's evaluator
does:

    {"tag": "counting", "include": [{"class": "circle", "count": 3, "color": "red"}],
     "exclude": [{"class": "circle", "count": 4, "color": "red"}], "background": "dark"}
"""

import hashlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product
from typing import Any

from capo.shapes.scenes import BACKGROUNDS, COLORS, SHAPES

CATEGORIES = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
RELATIONS = ("left of", "right of", "above", "below")
OPENINGS = ("a drawing of ", "a picture of ", "an image of ", "")
NUMBERS = {1: "a", 2: "two", 3: "three", 4: "four"}
SPLITS = {"train": (0.0, 0.6), "validation": (0.6, 0.7), "test": (0.7, 1.0)}
"""Range of every category's contents in each split, with the contents in the order of their digests."""


@dataclass(frozen=True)
class Subject:
    """A group of shapes that an image must show: `count` of them, in one color if it is named."""

    shape: str
    color: str | None = None
    count: int = 1

    @property
    def text(self) -> str:
        """The subject in words, as "two red circles"."""
        noun = self.shape if self.count == 1 else f"{self.shape}{'es' if self.shape == 'cross' else 's'}"
        return " ".join(w for w in (NUMBERS[self.count], self.color, noun) if w)


@dataclass(frozen=True)
class Spec:
    """The parts of one prompt."""

    category: str
    subjects: tuple[Subject, ...]
    relation: str | None = None
    background: str | None = None
    opening: str = ""

    @property
    def content(self) -> str:
        """The prompt without its opening. No content is in two splits."""
        joint = f" {self.relation} " if self.relation else " and "
        words = joint.join(subject.text for subject in self.subjects)
        return f"{words} on a {self.background} background" if self.background else words

    @property
    def text(self) -> str:
        """The whole prompt."""
        return self.opening + self.content

    @property
    def metadata(self) -> dict[str, Any]:
        """The content of the prompt in GenEval's layout, for the judge."""
        include: list[dict[str, Any]] = []
        for subject in self.subjects:
            include.append({"class": subject.shape, "count": subject.count})
            if subject.color:
                include[-1]["color"] = subject.color
        values: dict[str, Any] = {"tag": self.category, "include": include}
        if self.relation:
            include[0]["position"] = [self.relation, 1]
        if self.category == "counting":
            values["exclude"] = [{**include[0], "count": include[0]["count"] + 1}]
        if self.background:
            values["background"] = self.background
        return values


@cache
def grammar(split: str) -> dict[str, tuple[Spec, ...]]:
    """Return every prompt of a split by category.

    Raises `ValueError` for an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; the splits are {', '.join(SPLITS)}")
    low, high = SPLITS[split]
    by_category = {}
    for category in CATEGORIES:
        contents = sorted(_contents(category), key=lambda spec: _digest(spec.content))
        chosen = contents[round(low * len(contents)) : round(high * len(contents))]
        by_category[category] = tuple(
            Spec(s.category, s.subjects, s.relation, s.background, opening)
            for s in chosen
            for opening in OPENINGS
        )
    return by_category


def draw_specs(split: str, count: int | None, seed: int) -> list[Spec]:
    """Draw `count` distinct prompts, as evenly over the categories as their sizes allow; all if None.

    Raises `ValueError` if the split has too few prompts.
    """
    rng = random.Random(f"shapes/{split}/{seed}")
    queues = [rng.sample(specs, len(specs)) for specs in grammar(split).values()]
    total = sum(map(len, queues))
    if count is not None and count > total:
        raise ValueError(f"it has {total} prompts, fewer than the {count} requested")
    drawn: list[Spec] = []
    while len(drawn) < (total if count is None else count):
        drawn.extend(queue.pop() for queue in queues if queue)
    return drawn[:count]


def spec_of(metadata: Mapping[str, Any]) -> Spec:
    """Return the prompt with this `Spec.metadata`, without its opening."""
    include = metadata["include"]
    subjects = tuple(Subject(item["class"], item.get("color"), item["count"]) for item in include)
    relation = next((item["position"][0] for item in include if "position" in item), None)
    return Spec(metadata["tag"], subjects, relation, metadata.get("background"))


def prompts(split: str, count: int | None, seed: int) -> list[tuple[str, str, dict[str, Any]]]:
    """Return text, category and metadata of `draw_specs`; the prompt source `shapes:SPLIT`."""
    return [(spec.text, spec.category, spec.metadata) for spec in draw_specs(split, count, seed)]


def _contents(category: str) -> Iterator[Spec]:
    groups: list[tuple[tuple[Subject, ...], str | None]]
    if category == "single_object":
        groups = [((Subject(s),), None) for s in SHAPES]
    elif category == "colors":
        groups = [((Subject(s, c),), None) for s, c in product(SHAPES, COLORS)]
    elif category == "counting":
        groups = [((Subject(s, c, n),), None) for s, c, n in product(SHAPES, (None, *COLORS), (2, 3, 4))]
    elif category == "two_object":
        groups = [((Subject(a), Subject(b)), None) for a, b in permutations(SHAPES, 2)]
    elif category == "position":
        groups = [
            ((Subject(a), Subject(b)), relation)
            for (a, b), relation in product(permutations(SHAPES, 2), RELATIONS)
        ]
    else:
        pairs = product(permutations(SHAPES, 2), permutations(COLORS, 2))
        groups = [((Subject(a, c), Subject(b, d)), None) for (a, b), (c, d) in pairs]
    for (subjects, relation), background in product(groups, (None, *BACKGROUNDS)):
        yield Spec(category, subjects, relation, background)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
