"""Recover the scene that people see from the pixels of an image.

The judge detects the shapes; their size, place and color and the color of the background are measured.
Simulated people (`simulated_raters`) can thus judge any image as they judge scenes.
"""

import colorsys

import numpy as np
import torch

from capo.shapes.drawing import signed_distance
from capo.shapes.judge import Detection, check_image, detect
from capo.shapes.scenes import SHAPES, SIZE, Item, Scene

INSIDE = -0.5
"""Signed distance in pixels at which a shape covers a pixel completely."""


def perceive(image: np.ndarray) -> Scene:
    """Return the scene in an image (uint8 `[32, 32, 3]`), largest shape first, without its blur.

    Anything that does not resemble a shape is ignored. Raises `ValueError` for an image of another size.
    """
    check_image("perceive", image)
    pixels = image.astype(np.float32) / 255
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    items = tuple(_item(shape, pixels) for shape in detect(image))
    return Scene(items, _color(border))


def _item(shape: Detection, pixels: np.ndarray) -> Item:
    hue, saturation, value = colorsys.rgb_to_hsv(*_color(pixels[_inside(shape)]))
    return Item(shape.shape, shape.color, (360 * hue, saturation, value), shape.x, shape.y, shape.radius)


def _inside(shape: Detection) -> np.ndarray:
    """The pixels that a shape covers completely, or else its innermost one, bool `[32, 32]`."""
    center = torch.arange(SIZE) + 0.5
    x, y = torch.meshgrid(center - shape.x, center - shape.y, indexing="xy")
    distance = signed_distance(SHAPES.index(shape.shape), x, y, torch.tensor(shape.radius))
    return (distance <= max(INSIDE, float(distance.min()))).numpy()


def _color(pixels: np.ndarray) -> tuple[float, float, float]:
    """The median color of pixels `[n, 3]`."""
    red, green, blue = np.median(pixels, axis=0).tolist()
    return red, green, blue
