"""Mask2Former as an object detector, with mmdet's weights or the Hub's, and mmdet's way around it.

The image is prepared, and objects are read off the network's output, as mmdet 2.x does with its configuration
`mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco`. transformers' own helpers work at another size and merge
overlapping objects.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from capo.benchmarks.coco_classes import COCO_CLASSES
from capo.benchmarks.geneval_rules import SegmentedObject
from capo.benchmarks.judges.mmdet_layout import config_of, from_mmdet, is_mmdet
from capo.benchmarks.judges.opencv_resize import resize_bilinear
from capo.pretrained.model_loading import quiet
from capo.rewards.protocol import RewardError
from capo.rewards.weights.load_weights import load_into, load_model, read_weights

if TYPE_CHECKING:
    from PIL import Image

SHORT_SIDE, LONG_SIDE = 800, 1333
"""The image is resized until one of its sides reaches one of these."""
MULTIPLE = 32
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
GRAY = 128.0
"""Right and below, up to a multiple of `MULTIPLE`."""
UNUSED = re.compile(r"swin\.layernorm\.|^criterion\.")
"""Tensors that only transformers 5 has: a norm that nothing reads, and the weights of the training loss."""
CANDIDATES = 100
"""The most probable pairs of query and class of an image; only these can become objects."""


class Mask2Former:
    """A detector of COCO's 80 classes in float32."""

    def __init__(self, location: str, device: Any) -> None:
        """Load mmdet's `.pth` file, or a folder or Hub id in the layout of transformers.

        Raises:
            RewardError: the weights cannot be read, do not fit, or are not for COCO's 80 classes.
        """
        self._model = _load(location, device)
        if self._model.config.num_labels != len(COCO_CLASSES):
            raise RewardError(
                f"{location} detects {self._model.config.num_labels} classes; it must be a detector of "
                f"COCO's {len(COCO_CLASSES)} objects"
            )

    @torch.inference_mode()
    def detect(self, image: "Image.Image", floor: float) -> dict[int, list[SegmentedObject]]:
        """Return the objects with a confidence above `floor` by class index, for an RGB image.

        Raises `ValueError` if the network's output is not finite.
        """
        pixels, resized = prepare(image)
        with _full_precision():
            output = self._model(pixels.to(self._model.device))
        classes, masks = output.class_queries_logits[0], output.masks_queries_logits[0]
        if not (classes.isfinite().all() and masks.isfinite().all()):
            raise ValueError("the detector's output is not finite")
        queries, labels, probabilities = _candidates(classes, floor)
        full = interpolate(masks[queries][:, None], pixels.shape[-2:], mode="bilinear", align_corners=False)
        cut = full[:, :, : resized[0], : resized[1]]
        size = (image.height, image.width)
        logits = interpolate(cut, size, mode="bilinear", align_corners=False)[:, 0]
        found: dict[int, list[SegmentedObject]] = {}
        for label, probability, mask in zip(labels.tolist(), probabilities, logits, strict=True):
            item = _object(probability, mask)
            if item.box[4] > floor:
                found.setdefault(label, []).append(item)
        return found


def prepare(image: "Image.Image") -> tuple[Tensor, tuple[int, int]]:
    """Return an image as the network reads it, float32 [1, 3, H, W], and its size [h, w] without padding.

    Resized as OpenCV does, then padded, then normalized.
    """
    scale = min(LONG_SIDE / max(image.size), SHORT_SIDE / min(image.size))
    resized = (int(image.height * scale + 0.5), int(image.width * scale + 0.5))
    array = resize_bilinear(np.asarray(image, dtype=np.uint8), *resized)
    pixels = torch.tensor(array).permute(2, 0, 1)[None].float()
    right, below = (-side % MULTIPLE for side in reversed(resized))
    padded = pad(pixels, (0, right, 0, below), value=GRAY)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (padded - mean) / std, resized


def _candidates(logits: Tensor, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, class and probability, each [n], of the pairs that can become objects.

    `logits` is [queries, classes + 1]; the last class is "no object". An object's confidence is at most this
    probability, so pairs at or below `floor` are left out before their masks are computed.
    """
    probabilities = logits.softmax(-1)[:, :-1]
    top, index = probabilities.flatten().topk(min(CANDIDATES, probabilities.numel()))
    index, top = index[top > floor], top[top > floor]
    count = probabilities.shape[1]
    return index // count, index % count, top


def _object(probability: Tensor, logits: Tensor) -> SegmentedObject:
    """Return the object of a mask, given as logits [H, W] over the image.

    Its confidence is the class probability times the mean probability of the mask's pixels.
    """
    mask = logits > 0
    share = (logits.sigmoid() * mask).sum() / (mask.sum() + 1e-6)
    box = np.zeros(5, dtype=np.float32)
    if mask.any():
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        box[:4] = [columns[0].item(), rows[0].item(), columns[-1].item() + 1, rows[-1].item() + 1]
    box[4] = (probability * share).item()
    return SegmentedObject(box, mask.cpu().numpy())


def _load(location: str, device: Any) -> Any:
    network = _network_class()
    if not Path(location).is_file():
        return load_model(network, location, device, torch.float32)
    with torch.serialization.safe_globals(_numbers()):
        weights = read_weights(location)
    if not is_mmdet(weights):
        raise RewardError(f"{location} is not a Mask2Former with a Swin backbone in the layout of mmdet 2.x")
    with quiet():
        model = network(config_of(weights))
    unused = {name: value for name, value in model.state_dict().items() if UNUSED.search(name)}
    return load_into(model, {**from_mmdet(weights), **unused}, location, device)


def _numbers() -> list[Any]:
    """Return what numpy's numbers are pickled with. They are data, and may stand beside the tensors."""
    scalar = np.float64(0).__reduce__()[0]
    old_name = (scalar, "numpy.core.multiarray.scalar")  # before numpy 2
    return [scalar, old_name, np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8"))]


def _network_class() -> Any:
    """Return the network; it accepts checkpoints without the tensors that detection does not use."""
    from transformers import Mask2FormerForUniversalSegmentation

    class Detector(Mask2FormerForUniversalSegmentation):  # type: ignore[misc]
        _keys_to_ignore_on_load_missing = (UNUSED.pattern,)
        # A constant, which transformers 4 stored.
        _keys_to_ignore_on_load_unexpected = (r"relative_position_index$",)

    return Detector


@contextmanager
def _full_precision() -> Iterator[None]:
    """Compute in float32 instead of TF32, which GPUs otherwise use for convolutions."""
    backends = torch.backends
    matmul = backends.cuda.matmul.allow_tf32
    backends.cuda.matmul.allow_tf32 = False
    try:
        with backends.cudnn.flags(
            enabled=backends.cudnn.enabled,
            benchmark=backends.cudnn.benchmark,
            deterministic=backends.cudnn.deterministic,
            allow_tf32=False,
        ):
            yield
    finally:
        backends.cuda.matmul.allow_tf32 = matmul
