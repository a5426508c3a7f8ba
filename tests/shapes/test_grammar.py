import json
from collections import Counter

import pytest

from capo.shapes.grammar import CATEGORIES, OPENINGS, SPLITS, Spec, Subject, draw_specs, grammar, prompts


def specs(split):
    return [spec for of_category in grammar(split).values() for spec in of_category]


def test_splits_share_no_contents():
    contents = {split: {spec.content for spec in specs(split)} for split in SPLITS}
    assert sum(map(len, contents.values())) == len(set().union(*contents.values()))


def test_a_text_has_one_meaning():
    texts = [spec.text for split in SPLITS for spec in specs(split)]
    assert len(texts) == len(set(texts)) > 8000


@pytest.mark.parametrize(("split", "least"), [("train", 5000), ("validation", 800), ("test", 2500)])
def test_every_split_has_enough_of_every_category(split, least):
    found = grammar(split)
    assert tuple(found) == CATEGORIES
    assert all(found.values())
    assert all(spec.category == category for category, of_it in found.items() for spec in of_it)
    assert sum(map(len, found.values())) >= least


def test_all_contents_have_all_openings():
    counts = Counter(spec.content for spec in specs("train"))
    assert set(counts.values()) == {len(OPENINGS)}


def test_a_smaller_count_is_a_prefix_under_the_same_seed():
    drawn = prompts("train", 100, 3)
    assert drawn == prompts("train", 100, 3)
    assert drawn[:40] == prompts("train", 40, 3)
    assert drawn != prompts("train", 100, 4)
    assert len({text for text, _, _ in drawn}) == 100


def test_drawn_prompts_are_spread_evenly_over_the_categories():
    assert set(Counter(c for _, c, _ in prompts("train", 120, 0)).values()) == {20}
    counts = Counter(c for _, c, _ in prompts("test", 240, 0))
    assert counts["single_object"] == len(grammar("test")["single_object"]) == 20
    assert max(counts.values()) - min(n for c, n in counts.items() if c != "single_object") <= 1


def test_without_a_count_all_prompts_are_drawn():
    assert {text for text, _, _ in prompts("validation", None, 0)} == {s.text for s in specs("validation")}


def test_too_large_a_count_is_an_error_with_the_available_number():
    total = len(specs("validation"))
    with pytest.raises(ValueError, match=f"{total} prompts, fewer than the {total + 1} requested"):
        draw_specs("validation", total + 1, 0)
    with pytest.raises(ValueError, match="no split 'tests'; the splits are train, validation, test"):
        draw_specs("tests", 1, 0)


circle, square = Subject("circle"), Subject("square")


@pytest.mark.parametrize(
    ("spec", "text", "metadata"),
    [
        (
            Spec("single_object", (circle,), opening="a drawing of "),
            "a drawing of a circle",
            {"tag": "single_object", "include": [{"class": "circle", "count": 1}]},
        ),
        (
            Spec("colors", (Subject("cross", "red"),), background="dark"),
            "a red cross on a dark background",
            {
                "tag": "colors",
                "include": [{"class": "cross", "count": 1, "color": "red"}],
                "background": "dark",
            },
        ),
        (
            Spec("counting", (Subject("cross", None, 3),)),
            "three crosses",
            {
                "tag": "counting",
                "include": [{"class": "cross", "count": 3}],
                "exclude": [{"class": "cross", "count": 4}],
            },
        ),
        (
            Spec("counting", (Subject("circle", "blue", 2),)),
            "two blue circles",
            {
                "tag": "counting",
                "include": [{"class": "circle", "count": 2, "color": "blue"}],
                "exclude": [{"class": "circle", "count": 3, "color": "blue"}],
            },
        ),
        (
            Spec("two_object", (circle, square)),
            "a circle and a square",
            {
                "tag": "two_object",
                "include": [{"class": "circle", "count": 1}, {"class": "square", "count": 1}],
            },
        ),
        (
            Spec("position", (circle, square), "left of"),
            "a circle left of a square",
            {
                "tag": "position",
                "include": [
                    {"class": "circle", "count": 1, "position": ["left of", 1]},
                    {"class": "square", "count": 1},
                ],
            },
        ),
        (
            Spec("color_attr", (Subject("circle", "red"), Subject("square", "cyan"))),
            "a red circle and a cyan square",
            {
                "tag": "color_attr",
                "include": [
                    {"class": "circle", "count": 1, "color": "red"},
                    {"class": "square", "count": 1, "color": "cyan"},
                ],
            },
        ),
    ],
)
def test_text_and_metadata_in_the_layout_of_geneval(spec, text, metadata):
    assert (spec.text, spec.metadata) == (text, metadata)
    assert json.loads(json.dumps(spec.metadata)) == metadata
