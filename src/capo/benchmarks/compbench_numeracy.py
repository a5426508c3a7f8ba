"""Numeracy of T2I-CompBench++: whether an image shows as many objects of every class as its prompt says.

Huang et al., "T2I-CompBench++" (2025), by the arithmetic of the authors' code: among n classes, presence
of one counts 1 / 2n, and the exact number counts 1 / 2n more.
"""

from collections.abc import Mapping, Sequence

from capo.benchmarks.compbench_spatial import as_class
from capo.benchmarks.detections import DetectedObject, area, intersection

ONE = ("a", "an", "one")
NUMBERS = dict.fromkeys(ONE, 1) | {
    word: n for n, word in enumerate(("two", "three", "four", "five", "six", "seven", "eight"), start=2)
}
CLASSES = {"ship": "boat", "telivision": "tv", "goldfish": "fish", "painting": "picture"}
"""Nouns that the detector knows by another name, spelled as in the prompts."""
SAME = 0.9
"""Overlap above which two boxes of a class are one object: of the union, or of either box."""


def expected_counts(words: Sequence[str], plurals: Mapping[str, str]) -> list[tuple[str, int]]:
    """Return the classes that a prompt counts with their numbers, in its order.

    `plurals` has the plural of every noun by its singular, from `new_objects.txt`. A number counts the noun
    of two words or one word that follows it. Nouns that are not in `plurals` are skipped, as in the
    official code.
    """
    singular_of = {plural: singular for singular, plural in plurals.items()}
    counts: list[tuple[str, int]] = []
    for place, word in enumerate(words):
        if word not in NUMBERS:
            continue
        pair = " ".join(words[place + 1 : place + 3]) if place < len(words) - 2 else ""
        if pair in singular_of and word not in ONE:
            counts.append((singular_of[pair], NUMBERS[word]))
        elif pair and (pair in plurals or pair in singular_of):
            counts.append((pair, 1))
        elif noun := next(iter(words[place + 1 : place + 2]), None):
            if noun in plurals and word in ONE:
                counts.append((noun, 1))
            elif noun in singular_of:
                counts.append((singular_of[noun], NUMBERS[word]))
    return counts


def detector_class(noun: str) -> str:
    """Return the name by which the detector knows a noun."""
    return CLASSES.get(noun, as_class(noun))


def distinct_labels(objects: Sequence[DetectedObject]) -> list[str]:
    """Return the labels of objects, without repeated detections of the same object.

    A box that covers almost the same place as an earlier one with its label is a repetition. Areas count
    the edge pixels.
    """
    kept: list[DetectedObject] = []
    for candidate in objects:
        if not any(one.label == candidate.label and _same_place(one, candidate) for one in kept):
            kept.append(candidate)
    return [one.label for one in kept]


def numeracy_score(objects: Sequence[DetectedObject], counts: Sequence[tuple[str, int]]) -> float:
    """Return the score of an image in [0, 1]; `counts` are those of the prompt, at least one."""
    labels = distinct_labels(objects)
    score = 0.0
    for noun, number in counts:
        name = detector_class(noun)
        if name not in labels:
            # A longer class name that contains the noun counts as it, and stays renamed.
            labels = [name if name in label else label for label in labels]
        score += 0.5 * (name in labels) + 0.5 * (name in labels and labels.count(name) == number)
    return score / len(counts)


def _same_place(first: DetectedObject, second: DetectedObject) -> bool:
    shared = intersection(first.box, second.box, border=1)
    own, other = area(first.box, border=1), area(second.box, border=1)
    return max(shared / (own + other - shared), shared / own, shared / other) > SAME
