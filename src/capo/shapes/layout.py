"""Lay out scenes for prompts, and change prompts into near misses.

All randomness comes from a `random.Random`, so a scene is a function of its seed.
"""

import random
from collections.abc import Callable
from dataclasses import replace

from capo.shapes.grammar import RELATIONS, Spec, Subject
from capo.shapes.scenes import BACKGROUNDS, COLORS, HUES, SHAPES, SIZE, Item, Scene

RADII = {1: (5.0, 9.5), 2: (4.0, 6.5), 3: (3.6, 5.0), 4: (3.4, 4.6)}
"""Range of radii in pixels for each number of shapes in a scene."""
GAP = 2.0
"""Least distance in pixels between the bounding boxes of two shapes."""


def scene_of(spec: Spec, rng: random.Random) -> Scene:
    """Return a scene that satisfies `spec`; what the prompt leaves open is random."""
    background = spec.background or rng.choice(list(BACKGROUNDS))
    wanted = []
    for subject in spec.subjects:
        color = subject.color or rng.choice(COLORS)
        wanted += [(subject.shape, color)] * subject.count
    places = _places(len(wanted), spec.relation, rng)
    items = tuple(
        Item(shape, color, _shade(color, rng), x, y, radius)
        for (shape, color), (x, y, radius) in zip(wanted, places, strict=True)
    )
    return Scene(items, _plain(background, rng))


def corrupt(spec: Spec, rng: random.Random) -> Spec:
    """Return a near miss: the same prompt with one relevant detail changed."""
    changes: list[Callable[[Spec, random.Random], Spec]] = [_other_shape]
    if any(s.color for s in spec.subjects):
        changes += [_other_color] * 2
    if spec.category == "counting":
        changes += [_other_count] * 3
    if spec.relation:
        changes += [_other_relation] * 4
    if spec.category == "color_attr":
        changes += [_swapped_colors] * 3
    if spec.category in ("two_object", "color_attr"):
        changes += [_one_left_out]
    if spec.background:
        changes += [_other_background]
    return rng.choice(changes)(spec, rng)


def swap_colors(spec: Spec) -> Spec:
    """Return the prompt with the colors of its two subjects swapped."""
    first, second = spec.subjects
    return replace(spec, subjects=(replace(first, color=second.color), replace(second, color=first.color)))


def _other(value: str, values: tuple[str, ...], rng: random.Random) -> str:
    return rng.choice([v for v in values if v != value])


def _change_subject(spec: Spec, index: int, subject: Subject) -> Spec:
    subjects = list(spec.subjects)
    subjects[index] = subject
    return replace(spec, subjects=tuple(subjects))


def _other_shape(spec: Spec, rng: random.Random) -> Spec:
    index = rng.randrange(len(spec.subjects))
    subject = spec.subjects[index]
    return _change_subject(spec, index, replace(subject, shape=_other(subject.shape, SHAPES, rng)))


def _other_color(spec: Spec, rng: random.Random) -> Spec:
    index = rng.choice([i for i, s in enumerate(spec.subjects) if s.color])
    subject = spec.subjects[index]
    return _change_subject(spec, index, replace(subject, color=_other(subject.color or "", COLORS, rng)))


def _other_count(spec: Spec, rng: random.Random) -> Spec:
    subject = spec.subjects[0]
    return _change_subject(
        spec, 0, replace(subject, count=rng.choice([n for n in RADII if n != subject.count]))
    )


def _other_relation(spec: Spec, rng: random.Random) -> Spec:
    return replace(spec, relation=_other(spec.relation or "", RELATIONS, rng))


def _swapped_colors(spec: Spec, _: random.Random) -> Spec:
    return swap_colors(spec)


def _one_left_out(spec: Spec, rng: random.Random) -> Spec:
    return replace(spec, subjects=(rng.choice(spec.subjects),))


def _other_background(spec: Spec, rng: random.Random) -> Spec:
    return replace(spec, background=_other(spec.background or "", tuple(BACKGROUNDS), rng))


def _shade(color: str, rng: random.Random) -> tuple[float, float, float]:
    return HUES[color] + rng.uniform(-9, 9), rng.uniform(0.55, 1.0), rng.uniform(0.6, 1.0)


def _plain(background: str, rng: random.Random) -> tuple[float, float, float]:
    lightness = rng.uniform(*BACKGROUNDS[background])
    red, green, blue = (min(1.0, max(0.0, lightness + rng.uniform(-0.02, 0.02))) for _ in range(3))
    return red, green, blue


def _places(count: int, relation: str | None, rng: random.Random) -> list[tuple[float, float, float]]:
    """Centers and radii `(x, y, radius)` of shapes that do not touch and stand in `relation`."""
    while True:
        radii = [rng.uniform(*RADII[count]) for _ in range(count)]
        places: list[tuple[float, float, float]] = []
        for radius in radii:
            for _ in range(20):
                x, y = (rng.uniform(radius + 1, SIZE - radius - 1) for _ in range(2))
                if all(max(abs(x - a), abs(y - b)) >= radius + r + GAP for a, b, r in places):
                    places.append((x, y, radius))
                    break
        if len(places) == count and (relation is None or _related(places, relation)):
            return places


def _related(places: list[tuple[float, float, float]], relation: str) -> bool:
    """True if the two places are at least twice as far apart along the relation's axis as across it."""
    (ax, ay, _), (bx, by, _) = places
    along, across = {
        "left of": (bx - ax, by - ay),
        "right of": (ax - bx, by - ay),
        "above": (by - ay, bx - ax),
        "below": (ay - by, bx - ax),
    }[relation]
    return along >= 2 * abs(across)
