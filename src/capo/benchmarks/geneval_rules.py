"""GenEval's rules: which detected objects count, and whether they are what the prompt asks for.

Source: the official `evaluate_images.py` (djghosh13/geneval, MIT), with its default settings. Nothing here
runs a model: the rules read detections, and ask a function for the colors of objects.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from capo.benchmarks.coco_classes import COCO_CLASSES

RENAMED = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}
CLASSES = tuple(RENAMED.get(name, name) for name in COCO_CLASSES)
"""GenEval's class names, by the index of the detector's class."""

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")

CONFIDENCE = 0.3
COUNTING_CONFIDENCE = 0.9
"""Lowest confidence, exclusive, of an object in the category `counting`."""
MOST_OBJECTS = 16
"""Most objects of one class. The official non-maximum suppression is off by default, and so it is here."""
POSITION_MARGIN = 0.1
"""Share of the objects' sizes by which their centers must be apart before they count as apart."""


@dataclass(frozen=True, eq=False)
class SegmentedObject:
    """An object of one class in an image."""

    box: np.ndarray
    """float32 [5]: left, top, right and bottom in pixels, and the confidence in [0, 1]."""
    mask: np.ndarray | None = None
    """bool [H, W] of the image; None from a detector without masks."""


Objects = Mapping[str, Sequence[SegmentedObject]]
"""Objects of an image by class name, most confident first."""

ColorsOf = Callable[[Sequence[SegmentedObject], str], Sequence[str]]
"""Returns one of `COLORS` for each object of the class."""


@dataclass(frozen=True)
class Verdict:
    """The outcome for one image."""

    correct: bool
    reason: str
    """One line for each clause of the prompt that failed, worded as in the official results."""


def select_objects(
    detected: Mapping[str, Sequence[SegmentedObject]], tag: str
) -> dict[str, list[SegmentedObject]]:
    """Return the objects that count for a prompt of category `tag`, most confident first.

    An object needs a confidence above `CONFIDENCE`, or `COUNTING_CONFIDENCE` for counting. Classes without
    objects are left out.
    """
    threshold = COUNTING_CONFIDENCE if tag == "counting" else CONFIDENCE
    selected: dict[str, list[SegmentedObject]] = {}
    for name in CLASSES:
        objects = detected.get(name, ())
        scores = np.array([item.box[4] for item in objects], dtype=np.float32)
        order = [index for index in np.argsort(scores)[::-1] if scores[index] > np.float32(threshold)]
        if order:
            selected[name] = [objects[index] for index in order[:MOST_OBJECTS]]
    return selected


def relative_position(box: np.ndarray, target: np.ndarray) -> tuple[str, ...]:
    """Return the relations of `box` to `target`, a subset of `RELATIONS`, at most one for each axis.

    The offset of the centers shrinks along each axis by `POSITION_MARGIN` of the two sizes. What is left,
    divided by the length of the whole offset, must exceed 0.5.
    """
    corners = np.stack([box, target])[:, :4].reshape(2, 2, 2)  # object, corner, axis
    centers, sizes = corners.mean(axis=1), np.abs(corners[:, 1] - corners[:, 0])
    offset = centers[0] - centers[1]
    left_over = np.maximum(np.abs(offset) - POSITION_MARGIN * sizes.sum(axis=0), 0) * np.sign(offset)
    if np.all(np.abs(left_over) < 1e-3):
        return ()
    x, y = left_over / np.linalg.norm(offset)
    holds = (x < -0.5, x > 0.5, y < -0.5, y > 0.5)
    return tuple(relation for relation, true in zip(RELATIONS, holds, strict=True) if true)


def judge_objects(objects: Objects, metadata: Mapping[str, Any], colors_of: ColorsOf) -> Verdict:
    """Return whether the objects of an image are what the prompt's metadata ask for.

    `metadata` is a line of the official `evaluation_metadata.jsonl`. All clauses of `include` must hold, and
    none of `exclude`. Count, color and position are read off the most confident objects of a class.
    """
    reasons: list[str] = []
    groups: list[Sequence[SegmentedObject] | None] = []
    for clause in metadata.get("include", []):
        chosen = objects.get(clause["class"], ())[: clause["count"]]
        reason = (
            _wrong_count(chosen, clause)
            or _wrong_color(chosen, clause, colors_of)
            or _wrong_position(chosen, clause, groups)
        )
        reasons += [reason] if reason else []
        groups.append(None if reason else chosen)
    for clause in metadata.get("exclude", []):
        name, limit = clause["class"], clause["count"]
        if (found := len(objects.get(name, ()))) >= limit:
            reasons.append(f"expected {name}<{limit}, found {found}")
    return Verdict(not reasons, "\n".join(reasons))


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Raise `ValueError` unless the rules and the detector know everything that `metadata` name."""
    clauses = metadata.get("include")
    if not isinstance(clauses, list) or not clauses:
        raise ValueError("include must be a list of objects that the image must show")
    for index, clause in enumerate(clauses):
        _check_clause(clause)
        if "color" in clause and clause["color"] not in COLORS:
            raise ValueError(f"unknown color {clause['color']!r}; the colors are {', '.join(COLORS)}")
        if "position" in clause:
            _check_position(clause["position"], index)
    for clause in metadata.get("exclude", []):
        _check_clause(clause)


def _wrong_count(chosen: Sequence[SegmentedObject], clause: Mapping[str, Any]) -> str | None:
    name, count = clause["class"], clause["count"]
    return f"expected {name}>={count}, found {len(chosen)}" if len(chosen) < count else None


def _wrong_color(
    chosen: Sequence[SegmentedObject], clause: Mapping[str, Any], colors_of: ColorsOf
) -> str | None:
    if "color" not in clause:
        return None
    name, count, color = clause["class"], clause["count"], clause["color"]
    colors = list(colors_of(chosen, name))
    if (right := colors.count(color)) >= count:
        return None
    found = ", ".join(f"{colors.count(other)} {other}" for other in COLORS if other in colors)
    return f"expected {color} {name}>={count}, found {right} {color}; and {found}"


def _wrong_position(
    chosen: Sequence[SegmentedObject],
    clause: Mapping[str, Any],
    groups: Sequence[Sequence[SegmentedObject] | None],
) -> str | None:
    """Return the reason of the first pair of objects without the relation; all pairs must have it."""
    if "position" not in clause:
        return None
    name, (relation, index) = clause["class"], clause["position"]
    targets = groups[index]
    if targets is None:
        return f"no target for {name} to be {relation}"
    for item in chosen:
        for target in targets:
            relations = relative_position(item.box, target.box)
            if relation not in relations:
                return f"expected {name} {relation} target, found {' and '.join(relations)} target"
    return None


def _check_clause(clause: Any) -> None:
    if not isinstance(clause, Mapping) or clause.get("class") not in CLASSES:
        named = clause.get("class") if isinstance(clause, Mapping) else clause
        raise ValueError(f"unknown class {named!r}; the detector knows COCO's 80 classes")
    count = clause.get("count")
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"count of {clause['class']!r} must be a positive integer, not {count!r}")


def _check_position(position: Any, index: int) -> None:
    match position:
        case [str(relation), int(target)] if relation in RELATIONS and 0 <= target < index:
            return
    raise ValueError(
        f"position {position!r} must be one of {', '.join(RELATIONS)} and the index of an earlier object"
    )
