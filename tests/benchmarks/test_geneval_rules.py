"""GenEval's rules on synthetic detections, against arithmetic written here from the official formulas."""

import itertools
import math

import numpy as np
import pytest

from capo.benchmarks.geneval_rules import (
    CLASSES,
    COLORS,
    RELATIONS,
    SegmentedObject,
    check_metadata,
    judge_objects,
    relative_position,
    select_objects,
)


def item(score=0.95, box=(0, 0, 10, 10)):
    return SegmentedObject(np.array([*box, score], dtype=np.float32))


def objects(**counts):
    """Counts by class name, with `_` for a space."""
    return {name.replace("_", " "): [item() for _ in range(count)] for name, count in counts.items()}


def no_colors(chosen, name):
    raise AssertionError("no color was asked for")


def verdict(found, include, exclude=(), colors_of=no_colors):
    return judge_objects(found, {"include": list(include), "exclude": list(exclude)}, colors_of)


def test_classes_are_cocos_with_three_renamed():
    assert len(CLASSES) == len(set(CLASSES)) == 80
    known = {"person": 0, "traffic light": 9, "bench": 13, "cow": 19, "tie": 27, "wine glass": 40}
    known |= {"donut": 54, "tv": 62, "laptop": 63, "computer mouse": 64, "tv remote": 65}
    known |= {"computer keyboard": 66, "cell phone": 67, "toothbrush": 79}
    assert {name: CLASSES.index(name) for name in known} == known


def test_the_confidence_threshold_depends_on_the_category():
    scores = [0.2, 0.3, np.nextafter(np.float32(0.3), np.float32(1)), 0.9, 0.91]
    detected = {"dog": [item(score) for score in scores], "cat": [item(0.1)]}
    kept = {tag: select_objects(detected, tag) for tag in ("counting", "colors", "position")}
    assert {tag: list(found) for tag, found in kept.items()} == {tag: ["dog"] for tag in kept}
    assert [len(found["dog"]) for found in kept.values()] == [1, 3, 3]  # both thresholds are exclusive
    assert [round(float(o.box[4]), 2) for o in kept["colors"]["dog"]] == [0.91, 0.9, 0.3]


def test_at_most_sixteen_of_a_class_and_overlaps_stay():
    detected = {"dog": [item(0.4 + 0.01 * n) for n in range(30)]}
    (kept,) = select_objects(detected, "two_object").values()
    assert [round(float(o.box[4]), 2) for o in kept] == [round(0.69 - 0.01 * n, 2) for n in range(16)]


def test_counts_of_included_and_excluded_objects():
    """A counting prompt asks for n and not n + 1."""
    for wanted, found in itertools.product(range(1, 6), range(8)):
        include, exclude = [{"class": "bird", "count": wanted}], [{"class": "bird", "count": wanted + 1}]
        result = verdict(objects(bird=found) if found else {}, include, exclude)
        assert result.correct == (found == wanted)
        if found < wanted:
            assert result.reason == f"expected bird>={wanted}, found {found}"
        elif found > wanted:
            assert result.reason == f"expected bird<{wanted + 1}, found {found}"
        else:
            assert result.reason == ""


def test_every_clause_is_judged_and_each_failure_is_a_line():
    clauses = [{"class": "dog", "count": 1}, {"class": "cat", "count": 2}]
    for dogs, cats, birds in itertools.product(range(3), repeat=3):
        result = verdict(objects(dog=dogs, cat=cats, bird=birds), clauses, [{"class": "bird", "count": 1}])
        failures = [dogs < 1, cats < 2, birds >= 1]
        assert result.correct == (not any(failures))
        assert len(result.reason.splitlines()) == sum(failures)


def test_colors_are_those_of_the_most_confident_objects():
    clause = {"class": "hot dog", "count": 2, "color": "red"}
    for found in itertools.product(("red", "blue", "white"), repeat=2):
        asked = []

        def colors_of(chosen, name, found=found, asked=asked):
            asked.append((len(chosen), name))
            return list(found)

        result = verdict(objects(hot_dog=3), [clause], colors_of=colors_of)
        assert asked == [(2, "hot dog")]
        assert result.correct == (found == ("red", "red"))
        if not result.correct:
            reds = found.count("red")
            listed = ", ".join(f"{found.count(c)} {c}" for c in COLORS if c in found)
            assert result.reason == f"expected red hot dog>=2, found {reds} red; and {listed}"


def test_colors_are_not_asked_for_where_objects_are_missing():
    result = verdict(objects(dog=1), [{"class": "dog", "count": 2, "color": "red"}])
    assert result.reason == "expected dog>=2, found 1"


def relations_by_formula(box, target):
    """The official definition, number by number."""
    ax, ay = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    bx, by = (target[0] + target[2]) / 2, (target[1] + target[3]) / 2
    dx, dy = ax - bx, ay - by
    margin_x = 0.1 * (abs(box[2] - box[0]) + abs(target[2] - target[0]))
    margin_y = 0.1 * (abs(box[3] - box[1]) + abs(target[3] - target[1]))
    rx = math.copysign(max(abs(dx) - margin_x, 0), dx)
    ry = math.copysign(max(abs(dy) - margin_y, 0), dy)
    if abs(rx) < 1e-3 and abs(ry) < 1e-3:
        return set()
    length = math.hypot(dx, dy)
    found = {"left of"} if rx / length < -0.5 else {"right of"} if rx / length > 0.5 else set()
    return found | ({"above"} if ry / length < -0.5 else {"below"} if ry / length > 0.5 else set())


def test_positions_on_a_grid_of_boxes():
    """All offsets and several sizes: every relation, pairs of them, and none, each many times."""
    seen = {}
    target = (40.0, 40.0, 60.0, 60.0)
    places = range(0, 100, 4)
    for x, y, (w, h) in itertools.product(places, places, ((20, 20), (8, 60), (60, 8), (1, 1))):
        box = (float(x), float(y), float(x + w), float(y + h))
        expected = relations_by_formula(box, target)
        found = relative_position(np.array([*box, 0.9], np.float32), np.array([*target, 0.8], np.float32))
        assert set(found) == expected, (box, target)
        seen[tuple(sorted(expected))] = seen.get(tuple(sorted(expected)), 0) + 1
    singles = {(r,) for r in RELATIONS}
    pairs = {tuple(sorted(p)) for p in itertools.product(("left of", "right of"), ("above", "below"))}
    assert set(seen) == singles | pairs | {()}
    assert min(seen.values()) >= 5


def test_the_margin_is_a_tenth_of_both_sizes():
    target = np.array([0, 0, 100, 100, 1], np.float32)
    for offset, relations in ((19.9, ()), (20.0, ()), (39, ()), (41, ("right of",))):
        # 20 pixels of margin; the rest of the offset, over the whole of it, must exceed a half.
        box = target + np.array([offset, 0, offset, 0, 0], np.float32)
        assert relative_position(box, target) == relations


def test_a_relation_must_hold_for_all_pairs_of_objects():
    left, right, middle = (item(box=(x, 40, x + 20, 60)) for x in (0, 200, 100))
    include = [{"class": "cow", "count": 1}, {"class": "cat", "count": 2, "position": ["left of", 0]}]
    for cats in itertools.product((left, right), repeat=2):
        result = verdict({"cow": [middle], "cat": list(cats)}, include)
        assert result.correct == (cats == (left, left))
        if not result.correct:
            assert result.reason == "expected cat left of target, found right of target"
    two_cows = [{**include[0], "count": 2}, {**include[1], "count": 1}]
    assert not verdict({"cow": [right, left], "cat": [middle]}, two_cows).correct
    assert verdict({"cow": [right, right], "cat": [middle]}, two_cows).correct


def test_a_missing_target_is_a_reason_of_its_own():
    include = [{"class": "cow", "count": 1}, {"class": "cat", "count": 1, "position": ["above", 0]}]
    result = verdict(objects(cat=1), include)
    assert result.reason.splitlines() == ["expected cow>=1, found 0", "no target for cat to be above"]
    # An object in the same place has no relation at all; the official text then names none.
    assert verdict(objects(cow=1, cat=1), include).reason == "expected cat above target, found  target"


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({}, "include"),
        ({"include": []}, "include"),
        ({"include": [{"class": "mouse", "count": 1}]}, "mouse"),
        ({"include": [{"class": "dog", "count": 0}]}, "count"),
        ({"include": [{"class": "dog", "count": 1, "color": "teal"}]}, "teal"),
        ({"include": [{"class": "dog", "count": 1, "position": ["above", 0]}]}, "earlier"),
        (
            {"include": [{"class": "dog", "count": 1}], "exclude": [{"class": "unicorn", "count": 1}]},
            "unicorn",
        ),
    ],
)
def test_metadata_that_the_rules_do_not_know_are_rejected(metadata, named):
    with pytest.raises(ValueError, match=named):
        check_metadata(metadata)
