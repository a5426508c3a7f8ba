"""Detected objects, and how far two boxes overlap."""

from dataclasses import dataclass

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True)
class DetectedObject:
    """One detection. Detectors list them by falling score."""

    label: str
    score: float
    """Confidence in [0, 1]."""
    box: Box


def area(box: Box, border: float = 0.0) -> float:
    """Return the area of a box; `border` is added to both sides, 1 where edges count as pixels."""
    left, top, right, bottom = box
    return max(0.0, right - left + border) * max(0.0, bottom - top + border)


def intersection(first: Box, second: Box, border: float = 0.0) -> float:
    """Return the area that two boxes share."""
    left, top = max(first[0], second[0]), max(first[1], second[1])
    right, bottom = min(first[2], second[2]), min(first[3], second[3])
    return area((left, top, right, bottom), border)


def iou(first: Box, second: Box) -> float:
    """Return the intersection over union of two boxes, in [0, 1]; 0 for two boxes without an area."""
    shared = intersection(first, second)
    union = area(first) + area(second) - shared
    return shared / union if union else 0.0


def center(box: Box) -> tuple[float, float]:
    """Return x and y of the center."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
