"""The exact judge, which decides from pixels alone whether an image shows what its prompt asks for.

It detects shapes as connected components of one hue among the chromatic pixels and names them by the
template with the largest overlap. The verdict then follows GenEval's evaluator for every category. No
reward model is trained on the verdicts. Simulated people who label pairs (`perception`) use the shapes
that the judge detects. Only a verdict imports torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from capo.prompts import Prompt
from capo.shapes.scenes import BACKGROUNDS, HUES, SHAPES, SIZE

if TYPE_CHECKING:
    from PIL import Image

MIN_CHROMA = 0.15
"""Least difference of the largest and smallest channel (in [0, 1]) of a pixel that belongs to a shape."""
MIN_AREA = 9
"""Pixels; smaller components are ignored."""
MIN_OVERLAP = 0.6
"""Least soft intersection over union with the best template; other components are not shapes."""
MIN_OFFSET = 3.0
"""Least distance in pixels of two centers of which one is left of, right of, above or below the other."""


@dataclass(frozen=True)
class Detection:
    """A detected shape: its center and radius in pixels, and its overlap with the template."""

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
    """Return whether an image (uint8 `[H, W, 3]`) satisfies a prompt's metadata (`Spec.metadata`)."""
    check_image("the judge", image)
    return not fault_of(image, detect(image), metadata)


def fault_of(image: np.ndarray, shapes: Sequence[Detection], metadata: dict[str, Any]) -> str:
    """Return why an image with these shapes does not satisfy the metadata; empty if it does."""
    wanted = metadata.get("background")
    if wanted is not None and (background := background_of(image)) != wanted:
        return f"expected a {wanted} background, found a {background} one"
    return fault(shapes, metadata)


def satisfies(shapes: Sequence[Any], metadata: dict[str, Any]) -> bool:
    """Apply GenEval's rules to shapes, which have `shape, color, x, y`.

    Every included class must occur at least `count` times and every excluded one fewer times. For a
    position, some pair of the two classes must be in that relation.
    """
    return not fault(shapes, metadata)


def fault(shapes: Sequence[Any], metadata: dict[str, Any]) -> str:
    """Return which of GenEval's rules shapes break first; empty if none."""
    wanted = metadata["include"]
    groups = [[s for s in shapes if _matches(s, want)] for want in wanted]
    for group, want in zip(groups, wanted, strict=True):
        if len(group) < want["count"]:
            return f"expected {want['count']} {_named(want)}, found {len(group)}"
    for unwanted in metadata.get("exclude", ()):
        count = sum(_matches(shape, unwanted) for shape in shapes)
        if count >= unwanted["count"]:
            return f"expected fewer than {unwanted['count']} {_named(unwanted)}, found {count}"
    for group, want in zip(groups, wanted, strict=True):
        if "position" in want:
            relation, other = want["position"]
            if not any(stands(a, relation, b) for a in group for b in groups[other]):
                return f"no {_named(want)} {relation} a {_named(wanted[other])}"
    return ""


def stands(a: Any, relation: str, b: Any) -> bool:
    """Return whether `a` is `relation` (left of, right of, above, below) `b`, by their centers."""
    offset = {"left of": b.x - a.x, "right of": a.x - b.x, "above": b.y - a.y, "below": a.y - b.y}
    return offset[relation] >= MIN_OFFSET


def detect(image: np.ndarray) -> list[Detection]:
    """Return the shapes in an image (uint8 `[H, W, 3]`), largest first."""
    from scipy import ndimage

    pixels = image.astype(np.float32) / 255
    hue, chroma = _hue_and_chroma(pixels)
    nearest = np.argmin(_hue_distance(hue[..., None], np.array(list(HUES.values()))), axis=-1)
    detected = []
    for index, color in enumerate(HUES):
        labels, count = ndimage.label((chroma >= MIN_CHROMA) & (nearest == index))
        for label in range(1, count + 1):
            coverage = _coverage(np.where(labels == label, chroma, 0))
            area = float(coverage.sum())
            if area < MIN_AREA:
                continue
            shape, x, y, radius, overlap = _best_template(coverage)
            if overlap >= MIN_OVERLAP:
                detected.append((area, Detection(shape, color, x, y, radius, overlap)))
    return [detection for _, detection in sorted(detected, key=lambda pair: -pair[0])]


def background_of(image: np.ndarray) -> str:
    """Return the named background whose mean lightness is closest to the border's median."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).astype(np.float32) / 255
    lightness = float(np.median(border.mean(axis=-1)))
    return min(BACKGROUNDS, key=lambda name: abs(lightness - sum(BACKGROUNDS[name]) / 2))


def check_image(reader: str, image: np.ndarray) -> None:
    """Raise `ValueError` for an image that is not uint8 `[SIZE, SIZE, 3]`."""
    if image.shape != (SIZE, SIZE, 3) or image.dtype != np.uint8:
        raise ValueError(f"{reader} reads uint8 [{SIZE}, {SIZE}, 3] images, got {image.dtype} {image.shape}")


def _named(want: dict[str, Any]) -> str:
    return " ".join(word for word in (want.get("color"), want["class"]) if word)


def _matches(shape: Any, want: dict[str, Any]) -> bool:
    return shape.shape == want["class"] and want.get("color", shape.color) == shape.color


def _hue_and_chroma(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    red, green, blue = np.moveaxis(pixels, -1, 0)
    hue = np.degrees(np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue)) % 360
    return hue, pixels.max(axis=-1) - pixels.min(axis=-1)


def _hue_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs((a - b + 180) % 360 - 180)


def _coverage(chroma: np.ndarray) -> np.ndarray:
    """The share of every pixel that a component covers: its chroma over that of the interior."""
    return np.minimum(chroma / np.percentile(chroma[chroma > 0], 80), 1)


def _best_template(coverage: np.ndarray) -> tuple[str, float, float, float, float]:
    """Shape, center (x, y), radius and overlap of the template closest to a component."""
    import torch

    from capo.shapes.drawing import SQUARE_SIDE, signed_distance

    (x, width), (y, height) = (_extent(coverage.max(axis=axis)) for axis in (0, 1))
    center = np.arange(SIZE, dtype=np.float32) + 0.5
    rows = torch.from_numpy((center - y)[:, None] * np.ones_like(coverage))
    columns = torch.from_numpy((center - x)[None, :] * np.ones_like(coverage))
    overlaps, radii = [], []
    for kind, shape in enumerate(SHAPES):
        radii.append((width + height) / 4 / (SQUARE_SIDE if shape == "square" else 1))
        distance = signed_distance(kind, columns, rows, torch.tensor(radii[-1]))
        template = (0.5 - distance).clamp(0, 1).numpy()
        overlaps.append(np.minimum(coverage, template).sum() / np.maximum(coverage, template).sum())
    best = int(np.argmax(overlaps))
    return SHAPES[best], x, y, radii[best], float(overlaps[best])


def _extent(profile: np.ndarray) -> tuple[float, float]:
    """Center and length in pixels of the covered part of a profile, with fractions at its ends."""
    covered = np.flatnonzero(profile > 0.05)
    first, last = covered[0], covered[-1]
    low, high = first + 1 - min(profile[first], 1), last + min(profile[last], 1)
    return float((low + high) / 2), float(max(high - low, 1))
