import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capo.shapes.grammar import CATEGORIES, SPLITS, Spec, Subject, draw_specs, grammar
from capo.shapes.judge import satisfies
from capo.shapes.layout import GAP, corrupt, scene_of, swap_colors
from capo.shapes.scenes import BACKGROUNDS, MAX_ITEMS, SIZE

seeds = st.integers(0, 2**40)
specs = st.builds(
    lambda seed, split, category: random.Random(seed).choice(grammar(split)[category]),
    seeds,
    st.sampled_from(tuple(SPLITS)),
    st.sampled_from(CATEGORIES),
)


@given(specs, seeds)
def test_a_scene_satisfies_its_prompt(spec, seed):
    scene = scene_of(spec, random.Random(seed))
    assert satisfies(scene.items, spec.metadata)
    assert len(scene.items) == sum(subject.count for subject in spec.subjects) <= MAX_ITEMS
    assert scene == scene_of(spec, random.Random(seed))
    if spec.background:
        low, high = BACKGROUNDS[spec.background]
        assert all(low - 0.021 <= channel <= high + 0.021 for channel in scene.background)


@given(specs, seeds)
def test_shapes_do_not_overlap_and_stay_inside(spec, seed):
    items = scene_of(spec, random.Random(seed)).items
    for item in items:
        assert all(item.radius <= center <= SIZE - item.radius for center in (item.x, item.y))
    for a, b in combinations(items, 2):
        assert max(abs(a.x - b.x), abs(a.y - b.y)) >= a.radius + b.radius + GAP


@given(specs, seeds)
def test_a_near_miss_has_the_same_category_and_other_contents(spec, seed):
    other = corrupt(spec, random.Random(seed))
    assert other.content != spec.content
    assert (other.category, other.opening) == (spec.category, spec.opening)


def test_near_misses_rarely_satisfy_the_prompt():
    rng = random.Random(0)
    hits = []
    for spec in draw_specs("test", 600, 0):
        other = corrupt(spec, rng)
        scene = scene_of(other, rng)
        hits.append(satisfies(scene.items, spec.metadata) and other.background == spec.background)
    # Another relation may hold in addition to the drawn one.
    assert sum(hits) / len(hits) < 0.05


def test_swapped_colors():
    spec = Spec("color_attr", (Subject("circle", "red"), Subject("square", "cyan")))
    assert swap_colors(spec).text == "a cyan circle and a red square"
    assert swap_colors(swap_colors(spec)) == spec


def test_every_category_has_its_own_corruption():
    def changes(*subjects, category="colors", **fields):
        spec, rng = Spec(category, subjects, **fields), random.Random(0)
        return {corrupt(spec, rng).text for _ in range(400)}

    circle, square = Subject("circle"), Subject("square")
    assert "three circles" in changes(Subject("circle", None, 2), category="counting")
    assert "a circle right of a square" in changes(circle, square, category="position", relation="left of")
    assert "a square" in changes(circle, square, category="two_object")
    assert "a blue circle" in changes(Subject("circle", "red"))
    assert "a circle on a light background" in changes(circle, background="dark")
    red, cyan = Subject("circle", "red"), Subject("square", "cyan")
    assert "a cyan circle and a red square" in changes(red, cyan, category="color_attr")


@pytest.mark.parametrize("relation", ["left of", "right of", "above", "below"])
def test_relations_are_clear(relation):
    spec = Spec("position", (Subject("circle"), Subject("square")), relation)
    for seed in range(50):
        a, b = scene_of(spec, random.Random(seed)).items
        along, across = (abs(a.x - b.x), abs(a.y - b.y))[:: 1 if relation in ("left of", "right of") else -1]
        assert along >= 2 * across
