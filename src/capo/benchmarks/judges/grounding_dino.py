"""Grounding DINO: a detector of any object that a word names.

Liu et al., "Grounding DINO" (2023). It stands in for UniDet, which T2I-CompBench uses and transformers does
not have; other detections give other scores, so results name it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from capo.benchmarks.detections import DetectedObject
from capo.rewards.rgb_images import as_rgb
from capo.rewards.weights.load_weights import load_component, load_model

if TYPE_CHECKING:
    from PIL import Image

WEIGHTS = "IDEA-Research/grounding-dino-base"
THRESHOLD = 0.35
"""Confidence above which an object counts, as in the authors' demonstration."""


class GroundingDino:
    """A detector in float32. The classes of an image are searched together, so that they compete."""

    def __init__(self, checkpoint: str, device: Any, threshold: float = THRESHOLD) -> None:
        """Load a folder or Hub id in the layout of transformers; `RewardError` if it cannot be used."""
        from transformers import AutoImageProcessor, AutoModelForZeroShotObjectDetection, AutoTokenizer

        self._model = load_model(AutoModelForZeroShotObjectDetection, checkpoint, device, torch.float32)
        self._images = load_component(AutoImageProcessor, checkpoint, backend="pil")
        self._tokenizer = load_component(AutoTokenizer, checkpoint)
        self._threshold = threshold

    @torch.inference_mode()
    def detect(self, image: "Image.Image", classes: Sequence[str]) -> list[DetectedObject]:
        """Return the objects of `classes` in an image, by falling score, with boxes in its pixels.

        The score of a class is the largest probability of any of its tokens; a query is an object of its
        most probable class. Raises `ValueError` if the output is not finite.
        """
        names = list(dict.fromkeys(name.lower() for name in classes))
        if not names:
            return []
        text, ends = "", []
        for name in names:
            start = len(text)
            text += f"{name}. "
            ends.append((start, start + len(name)))
        coded = self._tokenizer(text.strip(), return_offsets_mapping=True, return_tensors="pt")
        tokens = [_tokens_between(coded.offset_mapping[0], *span) for span in ends]
        pixels = self._images(as_rgb(image), return_tensors="pt")
        device = self._model.device
        output = self._model(
            pixel_values=pixels.pixel_values.to(device),
            pixel_mask=pixels.pixel_mask.to(device),
            input_ids=coded.input_ids.to(device),
            attention_mask=coded.attention_mask.to(device),
        )
        probabilities = output.logits[0].sigmoid().cpu()  # [queries, tokens]
        boxes = output.pred_boxes[0].cpu()
        scores = torch.stack([probabilities[:, span].amax(-1) for span in tokens], dim=-1)
        if not (scores.isfinite().all() and boxes.isfinite().all()):
            raise ValueError("the detector's output is not finite")
        return _objects(scores, boxes, names, image.size, self._threshold)


def _tokens_between(offsets: Tensor, start: int, end: int) -> list[int]:
    """Return the positions of the tokens inside a range of characters."""
    spans = offsets.tolist()
    return [n for n, (left, right) in enumerate(spans) if start <= left < right <= end]


def _objects(
    scores: Tensor, boxes: Tensor, names: list[str], size: tuple[int, int], threshold: float
) -> list[DetectedObject]:
    """Return objects from scores [queries, classes] and boxes [queries, 4], shares of the image's sides."""
    width, height = size
    best, classes = scores.max(-1)
    order = best.argsort(descending=True, stable=True)
    found = []
    for query in order.tolist():
        if best[query] <= threshold:
            break
        x, y, w, h = boxes[query].tolist()
        box = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
        found.append(DetectedObject(names[int(classes[query])], float(best[query]), box))
    return found
