"""GenEval's judge: objects by Mask2Former, colors by CLIP, and GenEval's rules."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo.benchmarks.definition import JudgeImages, Judgment, failed
from capo.benchmarks.geneval_rules import (
    CLASSES,
    CONFIDENCE,
    SegmentedObject,
    check_metadata,
    judge_objects,
    select_objects,
)
from capo.prompts import Prompt
from capo.recipe.hub_id import HUB_ID, split_revision
from capo.rewards.catalog import CLIP_VIT_L
from capo.rewards.weights.download import check_available
from capo.rewards.weights.location import weights_identity

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image

    from capo.benchmarks.judges.color_classifier import ColorClassifier
    from capo.benchmarks.judges.mask2former import Mask2Former

FILE = "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco"
"""Name of the official detector's file, as the official scripts store it."""
URL = (
    f"https://download.openmmlab.com/mmdetection/v2.0/mask2former/{FILE}/{FILE}_20220504_001756-743b7d99.pth"
)
SHA256 = "743b7d99"
"""The beginning of the official file's digest, which mmdet puts into its name."""
CONVERSION = "facebook/mask2former-swin-small-coco-instance"
"""The same architecture with other weights: Facebook's own, converted for transformers."""
OUTLINE_ROWS = 24
"""Rows of a mask that its outline is drawn from."""
RULES = "geneval-1"
"""Changes with everything that changes a verdict, other than the weights."""


class GenEvalJudge:
    """Judges an image by its prompt's official metadata. One image at a time, as the official script does."""

    def __init__(self, detector: str | None = None, clip: str = CLIP_VIT_L) -> None:
        """Judge with the weights at two locations.

        Args:
            detector: mmdet's official `.pth` file or the folder that holds it, or a folder or Hub id of a
                Mask2Former for COCO in the layout of transformers.
            clip: a folder or Hub id of a CLIP model in the layout of transformers.

        Raises:
            ValueError: no detector, or one that is neither a path nor a Hub id.
        """
        self._detector, self._clip = _detector_location(detector), clip

    @property
    def official(self) -> bool:
        """True for mmdet's official weights, recognized by their digest, with OpenAI's CLIP ViT-L/14."""
        clip = split_revision(self._clip)[0] == split_revision(CLIP_VIT_L)[0]
        return clip and _is_official_file(Path(self._detector))

    @property
    def name(self) -> str:
        """`GenEval` for the official weights; any others are named."""
        if self.official:
            return "GenEval"
        converted = split_revision(self._detector)[0] == CONVERSION
        detector = "HF Mask2Former" if converted else Path(self._detector).name
        other_clip = split_revision(self._clip)[0]
        also = "" if other_clip == split_revision(CLIP_VIT_L)[0] else f", {Path(other_clip).name}"
        return f"GenEval ({detector}{also})"

    @property
    def fingerprint(self) -> str:
        """Rules and weights."""
        weights = (weights_identity("geneval", location) for location in (self._detector, self._clip))
        return " ".join((RULES, *weights))

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise `ValueError` for a prompt without GenEval's metadata, and for weights that cannot be had."""
        for prompt in prompts:
            try:
                check_metadata(prompt.metadata)
            except ValueError as error:
                raise ValueError(f"GenEval cannot judge {prompt.text!r}: {error}") from None
        for location in (self._detector, self._clip):
            check_available(location)

    def load(self, device: "torch.device") -> JudgeImages:
        """Load detector and CLIP onto a device. Raises `RewardError` if they cannot be used."""
        from capo.benchmarks.judges.color_classifier import ColorClassifier
        from capo.benchmarks.judges.mask2former import Mask2Former

        detector, colors = Mask2Former(self._detector, device), ColorClassifier(self._clip, device)

        def judge(images: "Sequence[Image.Image]", prompts: Sequence[Prompt]) -> list[Judgment]:
            return [_judge(detector, colors, *pair) for pair in zip(images, prompts, strict=True)]

        return judge


def _judge(
    detector: "Mask2Former", classifier: "ColorClassifier", image: "Image.Image", prompt: Prompt
) -> Judgment:
    """Return `correct`, `reason` and the `boxes` of all objects that count."""
    try:
        detected = detector.detect(image, CONFIDENCE)
    except ValueError as error:
        return failed(str(error))
    tag = prompt.metadata.get("tag") or prompt.category or ""
    objects = select_objects({CLASSES[index]: group for index, group in detected.items()}, tag)
    color_of: dict[int, str] = {}

    def colors_of(chosen: Sequence[SegmentedObject], name: str) -> list[str]:
        colors = classifier.colors(image, chosen, name)
        color_of.update((id(item), color) for item, color in zip(chosen, colors, strict=True))
        return colors

    verdict = judge_objects(objects, prompt.metadata, colors_of)
    boxes = [_box(name, item, color_of.get(id(item))) for name, group in objects.items() for item in group]
    return {"correct": verdict.correct, "reason": verdict.reason, "boxes": boxes}


def _box(name: str, item: SegmentedObject, color: str | None) -> dict[str, Any]:
    """Return an object as JSON: what the official `details` have, and what a picture of it needs."""
    *corners, confidence = item.box.tolist()
    label = f"{color} {name}" if color else name
    box = {"box": corners, "label": f"{label} {confidence:.2f}", "class": name, "confidence": confidence}
    return box if item.mask is None else {**box, "outline": outline(item.mask)}


def outline(mask: "np.ndarray") -> list[list[int]]:
    """Return a polygon around a mask, bool [H, W], as [x, y] from its leftmost and rightmost pixels."""
    import numpy as np

    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return []
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, OUTLINE_ROWS).round().astype(int))]
    left = mask[rows].argmax(axis=1)
    right = mask.shape[1] - mask[rows][:, ::-1].argmax(axis=1)
    down = [[int(x), int(y)] for x, y in zip(left, rows, strict=True)]
    up = [[int(x), int(y)] for x, y in zip(right, rows, strict=True)]
    return down + up[::-1]


def _detector_location(detector: str | None) -> str:
    if detector is None:
        raise ValueError(
            "GenEval's official detector needs the option `detector`: the path of mmdet's weights. Download "
            f"them with `curl -LO {URL}`, or choose the judge hf-mask2former, which is not official"
        )
    path = Path(detector)
    inside = [path / f"{FILE}.pth", path / Path(URL).name]
    found = next((file for file in inside if file.is_file()), path)
    if not (found.exists() or HUB_ID.fullmatch(detector)):
        raise ValueError(f"detector {detector!r} is neither a file, a folder nor a Hub id")
    return str(found) if found.exists() else detector


def _is_official_file(path: Path) -> bool:
    return path.is_file() and _sha256(path, path.stat().st_mtime_ns).startswith(SHA256)


@lru_cache
def _sha256(path: Path, modified: int) -> str:
    """Return the digest of a file that was last modified at `modified`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
