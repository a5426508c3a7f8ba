import random
from collections import defaultdict

import numpy as np
import pytest

from capo.shapes.drawing import draw
from capo.shapes.grammar import CATEGORIES, Spec, Subject, draw_specs
from capo.shapes.judge import background_of, detect, judge, satisfies
from capo.shapes.layout import corrupt, scene_of
from capo.shapes.scenes import BACKGROUNDS, COLORS, HUES, SHAPES, Item, Scene

PROMPTS = 720
LEAST_RIGHT = 0.97


def rendered(scenes):
    return draw(scenes).permute(0, 2, 3, 1).numpy()


def item(shape="circle", color="red", x=16.0, y=16.0, radius=5.0):
    return Item(shape, color, (HUES[color], 0.9, 0.9), x, y, radius)


def image(*items, lightness=0.1):
    return rendered([Scene(items, (lightness,) * 3)])[0]


def shows(scene, spec):
    """Compute the truth from the scene instead of its pixels."""
    lightness = sum(scene.background) / 3
    named = min(BACKGROUNDS, key=lambda name: abs(lightness - sum(BACKGROUNDS[name]) / 2))
    return satisfies(scene.items, spec.metadata) and spec.background in (None, named)


def agreement(make):
    """Return by category how often the judge agrees with the truth, and how often the truth is positive."""
    rng = random.Random(0)
    specs = draw_specs("test", PROMPTS, 0)
    scenes = [make(spec, rng) for spec in specs]
    found, truths = defaultdict(list), []
    for spec, scene, pixels in zip(specs, scenes, rendered(scenes), strict=True):
        truths.append(shows(scene, spec))
        found[spec.category].append(judge(pixels, spec.metadata) == truths[-1])
    assert set(found) == set(CATEGORIES)
    return {category: np.mean(each) for category, each in found.items()}, np.mean(truths)


def test_the_judge_accepts_scenes_of_their_prompt():
    right, truth = agreement(scene_of)
    assert truth == 1
    assert min(right.values()) >= LEAST_RIGHT, right


def test_the_judge_rejects_near_misses():
    right, truth = agreement(lambda spec, rng: scene_of(corrupt(spec, rng), rng))
    assert truth < 0.05
    assert min(right.values()) >= LEAST_RIGHT, right


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("color", COLORS)
def test_the_judge_detects_shapes_and_positions(shape, color):
    (found,) = detect(image(item(shape, color, 13.3, 18.6, 6.5), lightness=0.5))
    assert (found.shape, found.color) == (shape, color)
    assert (found.x, found.y) == pytest.approx((13.3, 18.6), abs=0.5)
    assert found.overlap > 0.8


def test_the_largest_shape_is_listed_first():
    found = detect(image(item("circle", "red", 7, 7, 3.5), item("square", "blue", 20, 20, 8)))
    assert [f.shape for f in found] == ["square", "circle"]


def test_plain_and_noisy_images_have_no_shapes():
    assert detect(image()) == []
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert not judge(noise, Spec("counting", (Subject("circle", None, 2),)).metadata)


@pytest.mark.parametrize(("name", "lightness"), [("dark", 0.2), ("grey", 0.45), ("light", 0.82)])
def test_backgrounds(name, lightness):
    pixels = image(item(), lightness=lightness)
    assert background_of(pixels) == name
    for other in BACKGROUNDS:
        spec = Spec("single_object", (Subject("circle"),), background=other)
        assert judge(pixels, spec.metadata) == (other == name)


def test_counting_is_exact_and_per_named_color():
    three = image(item(x=6, y=6, radius=4), item(x=18, y=6, radius=4), item("circle", "blue", 6, 18, 4))

    def counted(count, color=None):
        return judge(three, Spec("counting", (Subject("circle", color, count),)).metadata)

    assert [counted(n) for n in (2, 3, 4)] == [False, True, False]
    assert [counted(n, "red") for n in (2, 3, 4)] == [True, False, False]


def test_extra_shapes_are_accepted_outside_of_counting():
    two = image(item("circle", "red", 8, 8), item("square", "blue", 22, 22))
    for subjects in ((Subject("circle"),), (Subject("square", "blue"),)):
        assert judge(two, Spec("single_object", subjects).metadata)


def test_colors_belong_to_their_shapes():
    pixels = image(item("circle", "red", 8, 8), item("square", "blue", 22, 22))
    right = Spec("color_attr", (Subject("circle", "red"), Subject("square", "blue")))
    wrong = Spec("color_attr", (Subject("circle", "blue"), Subject("square", "red")))
    assert judge(pixels, right.metadata)
    assert not judge(pixels, wrong.metadata)


def test_positions_need_clearly_separated_centers():
    def stands(relation, x, y):
        pixels = image(item("circle", "red", 16, 16, 4), item("square", "blue", x, y, 4))
        spec = Spec("position", (Subject("circle"), Subject("square")), relation)
        return judge(pixels, spec.metadata)

    assert stands("left of", 26, 16)
    assert stands("above", 16, 26)
    assert stands("right of", 6, 17)
    assert stands("below", 17, 6)
    assert not stands("left of", 6, 16)
    assert not stands("above", 26, 17)  # only slightly higher


@pytest.mark.parametrize(
    ("pixels", "got"),
    [
        (np.zeros((64, 64, 3), np.uint8), r"uint8 \(64, 64, 3\)"),
        (np.zeros((32, 32, 3)), r"float64 \(32, 32, 3\)"),
        (np.zeros((3, 32, 32), np.uint8), r"uint8 \(3, 32, 32\)"),
    ],
)
def test_other_images_are_rejected(pixels, got):
    with pytest.raises(ValueError, match=rf"the judge reads uint8 \[32, 32, 3\] images, got {got}"):
        judge(pixels, {"include": []})
