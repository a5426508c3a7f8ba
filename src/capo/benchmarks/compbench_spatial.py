"""Spatial relations of T2I-CompBench: one score from the boxes of the two objects of a prompt.

Huang et al., "T2I-CompBench" (2023), Sec. 4.2, by the arithmetic of the authors' code. Boxes are in the
frame of a detector whose input is 480 pixels wide or high, which is what `NEAR` refers to.
"""

from collections.abc import Sequence

from capo.benchmarks.detections import Box, DetectedObject, center, iou

FRAME = 480
"""Longest side of the image in which distances are measured, in pixels."""
NEAR = 150.0
"""Pixels within which objects are near each other."""
MAX_OVERLAP = 0.1
"""Intersection over union above which a relation of sides counts less."""
CUT = 0.5
"""Lower scores count as 0."""

NEARBY = ("on side of", "next to", "near")
SIDES = {
    "on the left of": (0, 1),
    "on the right of": (0, -1),
    "on the bottom of": (1, -1),
    "on the top of": (1, 1),
}
"""Relations: the axis, and the sign of the second center minus the first along it."""
RELATIONS = (*NEARBY, *SIDES, "on top of")
"""In the order in which the official code looks for them. It has no rule for "on top of": position 0."""
PEOPLE = ("girl", "boy", "man", "woman")


def find_relation(prompt: str) -> str | None:
    """Return the first of `RELATIONS` that occurs in a prompt, or None."""
    return next((relation for relation in RELATIONS if relation in prompt), None)


def as_class(noun: str) -> str:
    """Return the class to look for: `person` for words for people."""
    return "person" if noun in PEOPLE else noun


def position_score(relation: str | None, first: Box, second: Box) -> float:
    """Return how well two boxes satisfy a relation, in [0, 1]."""
    offset = [b - a for a, b in zip(center(first), center(second), strict=True)]
    along = [abs(value) for value in offset]
    if relation in NEARBY:
        return 1.0 if min(along) < NEAR else NEAR / max(along)
    if relation not in SIDES:
        return 0.0
    axis, sign = SIDES[relation]
    if offset[axis] * sign <= 0 or along[axis] <= along[1 - axis]:
        return 0.0
    overlap = iou(first, second)
    return 1.0 if overlap < MAX_OVERLAP else MAX_OVERLAP / overlap


def spatial_score(
    objects: Sequence[DetectedObject], nouns: tuple[str, str] | None, relation: str | None
) -> float:
    """Return the score of an image, 0 or in [0.5, 1].

    A quarter comes from the confidence of each object, half from the position; scores below `CUT` are 0.
    The first detection of a class is taken, so `objects` must be sorted by falling score. Without two
    nouns in the prompt, the score is 0.
    """
    found = [next((o for o in objects if o.label == as_class(noun)), None) for noun in nouns or ()]
    score = sum(0.25 * one.score for one in found if one is not None)
    if len(found) == 2 and found[0] is not None and found[1] is not None:
        score += position_score(relation, found[0].box, found[1].box) / 2
    return score if score >= CUT else 0.0
