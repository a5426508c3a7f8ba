"""The exact judge: does an image show what a prompt says? Decided from pixels alone.

Shapes are found as connected components of one hue among the chromatic pixels and named by
the template they overlap best; the verdict then follows GenEval's evaluator category by
category. No reward model sees the judge. Nothing is trained on its verdict; simulated people who label
pairs (`perception`) see the shapes that it finds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import ndimage

from capo.prompts import Prompt
from capo.shapes.scenes import BACKGROUNDS, HUES, SHAPES, SIZE, SQUARE_SIDE, signed_distance

if TYPE_CHECKING:
    from PIL import Image

MIN_CHROMA = 0.15
"""Difference of the largest and smallest channel (in [0, 1]) from which a pixel belongs to a shape."""
MIN_AREA = 9
"""Pixels; smaller components are specks."""
MIN_OVERLAP = 0.6
"""Soft intersection over union with the best template below which a component is no shape at all."""
MIN_OFFSET = 3.0
"""Pixels between two centres from which one is left of, right of, above or below the other."""


@dataclass(frozen=True)
class Detection:
    """A shape found: its centre and radius in pixels, and the overlap with its template."""

    shape: str
    color: str
    x: float
    y: float
    radius: float
    overlap: float


class ShapesJudge:
    """The judge `shapes` of an evaluation."""

    image_size = (SIZE, SIZE)

    def can_judge(self, prompt: Prompt) -> bool:
        """Return whether the prompt comes from the grammar, or has metadata in the same layout."""
        return "include" in prompt.metadata

    def verdicts(self, images: "Sequence[Image.Image]", prompts: Sequence[Prompt]) -> list[bool]:
        """Return whether each image shows what its prompt asks for."""
        return [judge(np.asarray(i), p.metadata) for i, p in zip(images, prompts, strict=True)]


def judge(image: np.ndarray, metadata: dict[str, Any]) -> bool:
    """Whether `image` (uint8 `[H, W, 3]`) satisfies a prompt's metadata (`Spec.metadata`)."""
    check_image("the judge", image)
    wanted = metadata.get("background")
    if wanted is not None and background_of(image) != wanted:
        return False
    return satisfies(detect(image), metadata)


def satisfies(found: Sequence[Any], metadata: dict[str, Any]) -> bool:
    """GenEval's rule on shapes with `shape, color, x, y`.

    Each included class must be there `count` times or more, each excluded one fewer times; of a
    position, some pair of the two classes must stand so.
    """
    groups = [[f for f in found if _matches(f, want)] for want in metadata["include"]]
    if any(len(g) < want["count"] for g, want in zip(groups, metadata["include"], strict=True)):
        return False
    for unwanted in metadata.get("exclude", ()):
        if sum(_matches(f, unwanted) for f in found) >= unwanted["count"]:
            return False
    for group, want in zip(groups, metadata["include"], strict=True):
        if "position" in want:
            relation, other = want["position"]
            if not any(stands(a, relation, b) for a in group for b in groups[other]):
                return False
    return True


def stands(a: Any, relation: str, b: Any) -> bool:
    """Whether `a` is `relation` (left of, right of, above, below) `b`, by their centres."""
    offset = {"left of": b.x - a.x, "right of": a.x - b.x, "above": b.y - a.y, "below": a.y - b.y}
    return offset[relation] >= MIN_OFFSET


def detect(image: np.ndarray) -> list[Detection]:
    """The shapes in an image (uint8 `[H, W, 3]`), largest first."""
    pixels = image.astype(np.float32) / 255
    hue, chroma = _hue_and_chroma(pixels)
    nearest = np.argmin(_hue_distance(hue[..., None], np.array(list(HUES.values()))), axis=-1)
    found = []
    for index, color in enumerate(HUES):
        labels, count = ndimage.label((chroma >= MIN_CHROMA) & (nearest == index))
        for label in range(1, count + 1):
            coverage = _coverage(np.where(labels == label, chroma, 0))
            area = float(coverage.sum())
            if area < MIN_AREA:
                continue
            shape, x, y, radius, overlap = _best_template(coverage)
            if overlap >= MIN_OVERLAP:
                found.append((area, Detection(shape, color, x, y, radius, overlap)))
    return [detection for _, detection in sorted(found, key=lambda pair: -pair[0])]


def background_of(image: np.ndarray) -> str:
    """The named background whose middle lightness is nearest the border's median."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).astype(np.float32) / 255
    lightness = float(np.median(border.mean(axis=-1)))
    return min(BACKGROUNDS, key=lambda name: abs(lightness - sum(BACKGROUNDS[name]) / 2))


def check_image(who: str, image: np.ndarray) -> None:
    """Raise `ValueError` for an image that is not uint8 [SIZE, SIZE, 3]."""
    if image.shape != (SIZE, SIZE, 3) or image.dtype != np.uint8:
        raise ValueError(f"{who} reads uint8 [{SIZE}, {SIZE}, 3] images, got {image.dtype} {image.shape}")


def _matches(found: Any, want: dict[str, Any]) -> bool:
    return found.shape == want["class"] and want.get("color", found.color) == found.color


def _hue_and_chroma(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    red, green, blue = np.moveaxis(pixels, -1, 0)
    hue = np.degrees(np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue)) % 360
    return hue, pixels.max(axis=-1) - pixels.min(axis=-1)


def _hue_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs((a - b + 180) % 360 - 180)


def _coverage(chroma: np.ndarray) -> np.ndarray:
    """How much of each pixel a component covers: its chroma over that of its inside."""
    return np.minimum(chroma / np.percentile(chroma[chroma > 0], 80), 1)


def _best_template(coverage: np.ndarray) -> tuple[str, float, float, float, float]:
    """Shape, centre (x, y), radius and overlap of the template most like a component."""
    (x, width), (y, height) = (_extent(coverage.max(axis=axis)) for axis in (0, 1))
    centre = np.arange(SIZE, dtype=np.float32) + 0.5
    rows = torch.from_numpy((centre - y)[:, None] * np.ones_like(coverage))
    columns = torch.from_numpy((centre - x)[None, :] * np.ones_like(coverage))
    overlaps, radii = [], []
    for kind, shape in enumerate(SHAPES):
        radii.append((width + height) / 4 / (SQUARE_SIDE if shape == "square" else 1))
        distance = signed_distance(kind, columns, rows, torch.tensor(radii[-1]))
        template = (0.5 - distance).clamp(0, 1).numpy()
        overlaps.append(np.minimum(coverage, template).sum() / np.maximum(coverage, template).sum())
    best = int(np.argmax(overlaps))
    return SHAPES[best], x, y, radii[best], float(overlaps[best])


def _extent(profile: np.ndarray) -> tuple[float, float]:
    """Middle and length in pixels of what a profile covers, fractions at its ends included."""
    covered = np.flatnonzero(profile > 0.05)
    first, last = covered[0], covered[-1]
    low, high = first + 1 - min(profile[first], 1), last + min(profile[last], 1)
    return float((low + high) / 2), float(max(high - low, 1))
