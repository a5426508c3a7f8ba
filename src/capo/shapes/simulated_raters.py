"""Simulated people: how beautiful they find an image, and which of two images they prefer.

The rewards are trained on these noisy opinions, as real rewards are trained on those of real people.
Beauty ignores the prompt and often opposes it: people prefer one large, centered, vivid shape.
"""

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from capo.prompts import Prompt
from capo.shapes.grammar import Spec, spec_of
from capo.shapes.judge import stands
from capo.shapes.layout import RADII
from capo.shapes.perception import perceive
from capo.shapes.scenes import SIZE, Item, Scene

if TYPE_CHECKING:
    from PIL import Image


class ShapesPeople:
    """The simulated people `shapes`, who label pairs of samples."""

    def can_compare(self, prompt: Prompt) -> bool:
        """Return whether the prompt comes from the grammar, or has metadata in the same layout."""
        return "include" in prompt.metadata

    def compare(
        self, images: "Sequence[Image.Image]", prompt: Prompt, rng: random.Random
    ) -> list[tuple[int, int, float]]:
        """Compare the images of one prompt in pairs drawn at random, as `compare_at_random`."""
        scenes = [perceive(np.asarray(image)) for image in images]
        return compare_at_random(scenes, spec_of(prompt.metadata), rng)


def beauty(scene: Scene, blur: float = 0.0) -> float:
    """Return the true aesthetic rating of a scene, 1 to 10; `blur` is a standard deviation in pixels."""
    if not scene.items:
        return 1.0
    largest = max(scene.items, key=lambda item: item.radius)
    area = [item.radius**2 for item in scene.items]
    vivid = sum(a * i.hsv[1] * i.hsv[2] for a, i in zip(area, scene.items, strict=True)) / sum(area)
    contrast = sum(a * _contrast(i, scene) for a, i in zip(area, scene.items, strict=True)) / sum(area)
    size = (largest.radius - RADII[4][0]) / (RADII[1][1] - RADII[4][0])
    off_center = math.hypot(largest.x - SIZE / 2, largest.y - SIZE / 2) / (SIZE / 2)
    quiet = 1 / len(scene.items)
    score = 0.32 * (vivid - 0.3) / 0.7 + 0.24 * contrast + 0.2 * size + 0.12 * (1 - off_center) + 0.12 * quiet
    return 1 + 9 * min(1.0, max(0.0, score - 0.12 * blur))


def alignment(scene: Scene, spec: Spec) -> float:
    """Return the share of a prompt's details that a scene shows, 0 to 1."""
    facts: list[bool] = []
    groups = []
    for subject in spec.subjects:
        shaped = [i for i in scene.items if i.shape == subject.shape]
        exact = [i for i in shaped if subject.color in (None, i.color)]
        groups.append(exact)
        facts.append(bool(shaped))
        if subject.color:
            facts.append(bool(exact))
        if spec.category == "counting":
            facts += [len(exact) == subject.count] * 2
    if spec.relation:
        facts += [any(stands(a, spec.relation, b) for a in groups[0] for b in groups[1])] * 2
    if spec.background:
        facts.append(_named(scene) == spec.background)
    facts.append(len(scene.items) == sum(subject.count for subject in spec.subjects))
    return sum(facts) / len(facts)


def prefer(
    scenes: Sequence[Scene], spec: Spec, rng: random.Random, blurs: Sequence[float] = (0.0, 0.0)
) -> float:
    """Return 1 if a simulated person prefers the first of two scenes, 0 for the second, 1/2 for a tie.

    Utility is mostly alignment and a little beauty. The choice is logistic, and a small noisy
    difference is a tie.
    """
    first, second = (
        6 * alignment(scene, spec) + 0.35 * beauty(scene, blur)
        for scene, blur in zip(scenes, blurs, strict=True)
    )
    chance = rng.uniform(1e-6, 1 - 1e-6)
    difference = first - second + math.log(chance / (1 - chance))
    return 0.5 if abs(difference) < 0.25 else float(difference > 0)


def compare_at_random(
    scenes: Sequence[Scene], spec: Spec, rng: random.Random
) -> list[tuple[int, int, float]]:
    """Let people compare N scenes of a prompt in N // 2 disjoint random pairs, one person per pair.

    Returns two indices and the result of `prefer` for every pair.
    """
    order = rng.sample(range(len(scenes)), len(scenes))
    pairs = zip(order[::2], order[1::2], strict=False)
    return [(a, b, prefer((scenes[a], scenes[b]), spec, rng)) for a, b in pairs]


def notices(scene: Scene, rng: random.Random, blur: float = 0.0) -> bool:
    """Return whether a person notices every shape; small, pale and blurred shapes are missed."""
    legibility = [0.5 * min(1.0, i.radius / 7) + 0.5 * _contrast(i, scene) - 0.25 * blur for i in scene.items]
    return rng.random() < 1 / (1 + math.exp(-6 * (min(legibility) - 0.35)))


def _contrast(item: Item, scene: Scene) -> float:
    distance = math.dist(item.rgb, scene.background)
    return min(1.0, distance / 1.1)


def _named(scene: Scene) -> str:
    lightness = sum(scene.background) / 3
    return "dark" if lightness < 0.32 else "grey" if lightness < 0.69 else "light"
