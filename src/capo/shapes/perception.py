"""What people see: from the pixels of an image to the scene that was drawn.

The shapes are those that the judge finds; their size, place and colour, and that of the background, are
measured. So simulated people can say of any image what they say of scenes (`people`).
"""

import colorsys

import numpy as np
import torch

from capo.shapes.judge import Detection, check_image, detect
from capo.shapes.scenes import SHAPES, SIZE, Item, Scene, signed_distance

INSIDE = -0.5
"""Signed distance in pixels from which a shape covers a pixel wholly."""


def perceive(image: np.ndarray) -> Scene:
    """The scene in an image (uint8 `[32, 32, 3]`), its largest shape first; blur is not told apart.

    What is like no shape at all is not seen. Raises `ValueError` for an image of another size.
    """
    check_image("perceive", image)
    pixels = image.astype(np.float32) / 255
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    items = tuple(_item(found, pixels) for found in detect(image))
    return Scene(items, _color(border))


def _item(found: Detection, pixels: np.ndarray) -> Item:
    hue, saturation, value = colorsys.rgb_to_hsv(*_color(pixels[_inside(found)]))
    return Item(found.shape, found.color, (360 * hue, saturation, value), found.x, found.y, found.radius)


def _inside(found: Detection) -> np.ndarray:
    """The pixels that a shape covers wholly, or its innermost one, bool `[32, 32]`."""
    centre = torch.arange(SIZE) + 0.5
    x, y = torch.meshgrid(centre - found.x, centre - found.y, indexing="xy")
    distance = signed_distance(SHAPES.index(found.shape), x, y, torch.tensor(found.radius))
    return (distance <= max(INSIDE, float(distance.min()))).numpy()


def _color(pixels: np.ndarray) -> tuple[float, float, float]:
    """The median colour of pixels `[n, 3]`."""
    red, green, blue = np.median(pixels, axis=0).tolist()
    return red, green, blue
