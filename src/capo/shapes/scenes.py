"""Scenes of colored shapes on plain backgrounds.

A scene has at most `MAX_ITEMS` shapes on a 32×32 canvas. Coordinates and radii are in pixels; the
origin is the top left corner, and y points down. Imports no torch; `drawing` draws scenes.
"""

import colorsys
from dataclasses import dataclass

SIZE = 32
MAX_ITEMS = 4
SHAPES = ("circle", "square", "triangle", "cross")
HUES = {"red": 0.0, "yellow": 55.0, "green": 120.0, "cyan": 180.0, "blue": 230.0, "purple": 292.0}
COLORS = tuple(HUES)
BACKGROUNDS = {"dark": (0.06, 0.22), "grey": (0.42, 0.58), "light": (0.80, 0.95)}
"""Range of lightness of every named background."""


@dataclass(frozen=True)
class Item:
    """One shape: its name, color name, drawn color (HSV, hue in degrees), center and radius in pixels."""

    shape: str
    color: str
    hsv: tuple[float, float, float]
    x: float
    y: float
    radius: float

    @property
    def rgb(self) -> tuple[float, float, float]:
        """The drawn color in [0, 1]."""
        hue, saturation, value = self.hsv
        return colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value)


@dataclass(frozen=True)
class Scene:
    """Items on a background color (RGB in [0, 1])."""

    items: tuple[Item, ...]
    background: tuple[float, float, float]
