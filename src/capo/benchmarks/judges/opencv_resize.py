"""OpenCV's bilinear resizing of 8-bit images, in its own integer arithmetic.

Weights have 11 bits, and the sums are cut, not rounded. That makes every eighth value one level darker than
exact arithmetic would.
"""

import numpy as np

_BITS = 11


def resize_bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return an image, uint8 [H, W, 3], resized to uint8 [height, width, 3] without smoothing.

    Equal to `cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)`.
    """
    if image.shape[:2] == (height, width):
        return image
    left, right, left_weight, right_weight = _neighbors(image.shape[1], width)
    top, bottom, top_weight, bottom_weight = _neighbors(image.shape[0], height)
    values = image.astype(np.int32)
    rows = values[:, left] * left_weight[None, :, None] + values[:, right] * right_weight[None, :, None]
    above = (top_weight[:, None, None] * (rows[top] >> 4)) >> 16
    below = (bottom_weight[:, None, None] * (rows[bottom] >> 4)) >> 16
    return ((above + below + 2) >> 2).astype(np.uint8)


def _neighbors(before: int, after: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return for each of `after` places its two neighbors among `before`, and their weights out of 2^11.

    At the edges both neighbors are the same place.
    """
    place = ((np.arange(after) + 0.5) * (before / after) - 0.5).astype(np.float32)
    low = np.floor(place).astype(np.int32)
    share = place - low.astype(np.float32)
    weights = [np.rint(part * 2**_BITS).astype(np.int32) for part in (np.float32(1) - share, share)]
    return low.clip(0, before - 1), (low + 1).clip(0, before - 1), *weights
