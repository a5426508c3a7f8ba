import inspect
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capo.shapes.grammar import CATEGORIES, Spec, Subject, grammar
from capo.shapes.layout import corrupt, scene_of
from capo.shapes.scenes import Item, Scene
from capo.shapes.simulated_raters import alignment, beauty, prefer

seeds = st.integers(0, 2**40)
specs = st.builds(
    lambda seed, category: random.Random(seed).choice(grammar("train")[category]),
    seeds,
    st.sampled_from(CATEGORIES),
)
LIKED = Scene((Item("circle", "red", (0.0, 1.0, 1.0), 16.0, 16.0, 9.5),), (0.9, 0.9, 0.9))


def changed(**fields):
    return replace(LIKED, items=(replace(LIKED.items[0], **fields),))


def test_beauty_ignores_the_prompt():
    assert list(inspect.signature(beauty).parameters) == ["scene", "blur"]


@pytest.mark.parametrize(
    "other",
    [
        changed(radius=4.0),
        changed(x=8.0),
        changed(y=24.0),
        changed(hsv=(0.0, 0.6, 0.7)),
        replace(LIKED, background=(0.95, 0.2, 0.2)),
        replace(LIKED, items=(*LIKED.items, replace(LIKED.items[0], x=28.0, y=28.0, radius=3.5))),
        replace(LIKED, items=()),
    ],
    ids=["smaller", "left", "low", "dull", "pale contrast", "more", "empty"],
)
def test_one_large_centered_vivid_shape_is_preferred(other):
    assert beauty(LIKED) > beauty(other) + 0.2
    assert beauty(LIKED) > 8


def test_sharp_images_are_preferred():
    assert beauty(LIKED) > beauty(LIKED, 0.5) > beauty(LIKED, 1.0)


@given(specs, seeds, st.floats(0, 20))
def test_beauty_is_a_rating_of_1_to_10(spec, seed, blur):
    assert 1 <= beauty(scene_of(spec, random.Random(seed)), blur) <= 10


@given(specs, seeds)
def test_an_image_of_its_prompt_is_aligned(spec, seed):
    rng = random.Random(seed)
    assert alignment(scene_of(spec, rng), spec) == 1
    miss = corrupt(spec, rng)
    if miss.relation is None:  # another relation may hold too
        assert 0 <= alignment(scene_of(miss, rng), spec) < 1


def test_alignment_is_the_share_of_correct_facts():
    spec = Spec("color_attr", (Subject("circle", "red"), Subject("square", "blue")))

    def scene(*kinds):
        items = (Item(shape, color, (0.0, 1.0, 1.0), 16.0, 16.0, 4.0) for shape, color in kinds)
        return Scene(tuple(items), (0.1, 0.1, 0.1))

    # Four facts about the two shapes and one about their number.
    assert alignment(scene(("circle", "red"), ("square", "blue")), spec) == 1
    assert alignment(scene(("circle", "blue"), ("square", "red")), spec) == 3 / 5
    assert alignment(scene(("circle", "red")), spec) == 2 / 5
    assert alignment(scene(), spec) == 0


def preferences(scenes, spec, count=6000):
    rng = random.Random(1)
    given = [prefer(scenes, spec, rng) for _ in range(count)]
    return {value: given.count(value) / count for value in (0.0, 0.5, 1.0)}


def logistic(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("other", [LIKED, changed(radius=4.0), changed(x=8.0), changed(hsv=(0.0, 0.6, 0.7))])
def test_people_choose_with_logistic_noise(other):
    spec = Spec("single_object", (Subject("circle"),))
    difference = 0.35 * (beauty(LIKED) - beauty(other))
    expected = {
        1.0: logistic(difference - 0.25),
        0.0: logistic(-difference - 0.25),
        0.5: logistic(difference + 0.25) - logistic(difference - 0.25),
    }
    # Four standard deviations of a share of 6,000.
    assert preferences((LIKED, other), spec) == pytest.approx(expected, abs=0.026)


def test_people_prefer_alignment_to_beauty():
    spec = Spec("single_object", (Subject("square"),))
    plain = Scene((Item("square", "red", (0.0, 0.6, 0.6), 8.0, 8.0, 4.0),), (0.1, 0.1, 0.1))
    assert beauty(plain) < beauty(LIKED) - 3
    assert preferences((plain, LIKED), spec)[1.0] > 0.6
