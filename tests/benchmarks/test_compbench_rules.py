"""The arithmetic of T2I-CompBench on synthetic detections, against its definition."""

from itertools import product

import pytest

from capo.benchmarks.compbench_numeracy import distinct_labels, expected_counts, numeracy_score
from capo.benchmarks.compbench_phrases import Grammar, Word, outer_nouns, questions, related_nouns
from capo.benchmarks.compbench_spatial import find_relation, position_score, spatial_score
from capo.benchmarks.detections import DetectedObject, iou
from capo.benchmarks.judges.compbench_judge import in_frame, three_in_one


def square(x, y, side=40.0):
    """A box around a center."""
    return (x - side / 2, y - side / 2, x + side / 2, y + side / 2)


SIDES = {
    "on the left of": lambda dx, dy: dx > abs(dy),
    "on the right of": lambda dx, dy: -dx > abs(dy),
    "on the top of": lambda dx, dy: dy > abs(dx),
    "on the bottom of": lambda dx, dy: -dy > abs(dx),
}
STEPS = (-200, -150, -149, -60, -10, 0, 10, 60, 149, 150, 200)


def test_sides_hold_for_the_larger_offset_only_and_lose_by_overlap():
    for (relation, holds), dx, dy in product(SIDES.items(), STEPS, STEPS):
        first, second = square(240, 240), square(240 + dx, 240 + dy)
        shared = max(0, 40 - abs(dx)) * max(0, 40 - abs(dy))
        overlap = shared / (2 * 40 * 40 - shared)
        expected = 0 if not holds(dx, dy) else 1 if overlap < 0.1 else 0.1 / overlap
        assert position_score(relation, first, second) == pytest.approx(expected), (relation, dx, dy)


def test_near_needs_one_offset_below_150_pixels():
    for relation, dx, dy in product(("next to", "near", "on side of"), STEPS, STEPS):
        near = abs(dx) < 150 or abs(dy) < 150
        expected = 1 if near else 150 / max(abs(dx), abs(dy))
        assert position_score(relation, square(240, 240), square(240 + dx, 240 + dy)) == pytest.approx(
            expected
        )


def test_relations_without_a_rule_score_nothing():
    assert find_relation("a hat on top of a rack") == "on top of"
    assert position_score("on top of", square(0, 0), square(0, 100)) == 0
    assert position_score(find_relation("a cat and a dog"), square(0, 0), square(0, 100)) == 0
    assert find_relation("a bag on the right of a rabbit, near a tree") == "near"  # the order of the code


def test_the_spatial_score_is_confidence_and_position_cut_at_a_half():
    def found(*objects):
        return [DetectedObject(label, score, box) for label, score, box in objects]

    nouns, left = ("girl", "rabbit"), "on the left of"
    girl, rabbit = ("person", 0.8, square(100, 100)), ("rabbit", 0.6, square(300, 100))
    assert spatial_score(found(girl, rabbit), nouns, left) == pytest.approx(0.25 * 0.8 + 0.25 * 0.6 + 0.5)
    assert spatial_score(found(girl, rabbit), nouns, "on the right of") == 0  # 0.35 is cut
    sure = [(label, 1.0, box) for label, _, box in (girl, rabbit)]
    assert spatial_score(found(*sure), nouns, "on the right of") == 0.5  # not below a half
    assert spatial_score(found(girl), nouns, left) == 0
    assert spatial_score([], nouns, left) == spatial_score(found(girl), None, left) == 0
    second = ("rabbit", 0.5, square(20, 100))
    assert spatial_score(found(girl, rabbit, second), nouns, left) > 0.8  # the most confident of a class


# Numeracy.

PLURALS = {"boy": "boys", "cup": "cups", "ship": "ships", "tennis ball": "tennis balls", "sheep": "sheep"}


@pytest.mark.parametrize(
    ("prompt", "counts"),
    [
        ("two boys", [("boy", 2)]),
        ("a boy and three tennis balls", [("boy", 1), ("tennis ball", 3)]),
        ("one tennis ball , five cups", [("tennis ball", 1), ("cup", 5)]),
        ("four sheep", [("sheep", 4)]),
        ("nine cups and seven dragons", []),
        ("six", []),
    ],
)
def test_expected_counts(prompt, counts):
    assert expected_counts(prompt.split(), PLURALS) == counts


def row_of(label, number, start=0.0):
    return [DetectedObject(label, 0.9, square(start + 100 * n, 50)) for n in range(number)]


def test_numeracy_is_half_for_presence_and_half_for_the_number():
    for cups, boys in product(range(4), range(4)):
        objects = row_of("cup", cups) + row_of("person", boys)
        expected = sum(
            0.25 * (seen > 0) + 0.25 * (seen == wanted and seen > 0)
            for seen, wanted in ((cups, 2), (boys, 1))
        )
        assert numeracy_score(objects, [("cup", 2), ("boy", 1)]) == pytest.approx(expected), (cups, boys)


def test_class_names_that_contain_the_noun_count_only_if_the_noun_itself_is_not_there():
    cups = row_of("coffee cup", 2)
    assert numeracy_score(cups, [("cup", 2)]) == 1
    assert numeracy_score(cups + row_of("cup", 1, 500), [("cup", 2)]) == 0.5
    assert numeracy_score(row_of("boat", 3), [("ship", 3)]) == 1


def test_a_box_inside_another_of_its_class_is_the_same_object():
    whole = DetectedObject("cup", 0.9, (0, 0, 99, 99))
    for side, same in ((99, True), (95, True), (40, True)):  # inside: always at least 0.9 of itself
        assert (len(distinct_labels([whole, DetectedObject("cup", 0.5, (0, 0, side, side))])) == 1) is same
    for shift in range(0, 100):
        shared = max(0, 100 - shift) * 100  # pixels, edges included
        moved = DetectedObject("cup", 0.5, (shift, 0, shift + 99, 99))
        assert (len(distinct_labels([whole, moved])) == 1) is (shared / 10_000 > 0.9), shift
    assert len(distinct_labels([whole, DetectedObject("cat", 0.5, whole.box)])) == 2


# Phrases, 3-in-1, and the frame of the detector.


def grammar(text, *phrases):
    """`the/DET red/ADJ hat/NOUN`."""
    return Grammar(tuple(Word(*token.split("/")) for token in text.split()), phrases)


def test_questions_are_the_first_eight_phrases_that_name_no_place():
    phrases = ("a bench", "the left", "top", *(f"thing {n}" for n in range(9)))
    asked = questions(grammar("a/DET", *phrases))
    assert asked == ["a bench?", *(f"thing {n}?" for n in range(7))]


@pytest.mark.parametrize(
    ("text", "nouns"),
    [
        ("the/DET red/ADJ hat/NOUN sat/VERB on/ADP top/NOUN of/ADP the/DET rack/NOUN", ("hat", "rack")),
        ("Tom/PROPN sat/VERB next/ADV to/ADP Ann/PROPN ./PUNCT", ("Tom", "Ann")),
        ("a/DET cat/NOUN near/ADP Ann/PROPN", None),  # a name at the very end is not seen
        ("a/DET cat/NOUN near/ADP a/DET dog/NOUN next/ADV to/ADP a/DET car/NOUN", None),  # two relations
        ("a/DET cat/NOUN sleeps/VERB", None),
    ],
)
def test_related_nouns_stand_around_the_only_relation(text, nouns):
    assert related_nouns(grammar(text)) == nouns


def test_outer_nouns():
    assert outer_nouns(grammar("a/DET bag/NOUN on/ADP the/DET right/NOUN of/ADP a/DET hat/NOUN")) == (
        "bag",
        "hat",
    )
    assert outer_nouns(grammar("run/VERB")) is None


def test_three_in_one_is_the_mean_of_the_parts_a_prompt_has():
    parts = {"attribute": 0.9, "spatial": 0.6, "action": 0.3}
    assert three_in_one(parts, "spatial") == pytest.approx(0.75)
    assert three_in_one(parts, "action") == pytest.approx(0.6)
    assert three_in_one(parts, "both") == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("size", "frame"), [((1024, 1024), (479, 479)), ((64, 128), (240, 480)), ((1280, 640), (480, 240))]
)
def test_distances_are_those_of_the_detectors_input(size, frame):
    (one,) = in_frame([DetectedObject("cat", 1, (0, 0, *size))], size)
    assert one.box == pytest.approx((0, 0, *frame), abs=1)
    assert iou(one.box, one.box) == 1
