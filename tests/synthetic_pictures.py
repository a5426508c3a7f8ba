"""Pictures for synthetic runs: shapes on plain backgrounds, with more errors at lower quality."""

import io

import numpy as np
from PIL import Image, ImageDraw

COLORS = {"red": "#d33f32", "green": "#3c9e55", "blue": "#3d62c8", "yellow": "#e3bd3b", "purple": "#8b4bb0"}
SHAPES = ("circle", "square", "triangle")
WRONG_COLOR = "#9a8f84"
PLACES = ((0.3, 0.3), (0.7, 0.7), (0.7, 0.28), (0.28, 0.72), (0.5, 0.5))


def draw_png(count: int, color: str, shape: str, quality: float, pixels: int, seed: int) -> bytes:
    """Draw `count` shapes of a color. Low quality (about -3 to 3) adds a shape or uses the wrong color."""
    rng = np.random.default_rng(seed)
    side = pixels * 4 if pixels < 128 else pixels
    ground = tuple(int(v) for v in rng.integers(214, 244) + rng.integers(-6, 6, 3))
    image = Image.new("RGB", (side, side), ground)
    drawn = count if quality > -0.4 else count + 1
    for x, y in PLACES[:drawn] if drawn > 1 else PLACES[-1:]:
        fill = COLORS[color] if quality > -1.1 else WRONG_COLOR
        _shape(ImageDraw.Draw(image), shape, x * side, y * side, side * float(rng.uniform(0.15, 0.22)), fill)
    array = np.asarray(image.resize((pixels, pixels), Image.Resampling.LANCZOS)).astype(float)
    noise = rng.normal(size=array.shape) * (4 + 5 * max(0.0, -quality))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(array + noise, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _shape(draw: ImageDraw.ImageDraw, shape: str, x: float, y: float, r: float, color: str) -> None:
    if shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=color)
    elif shape == "square":
        draw.rectangle((x - 0.9 * r, y - 0.9 * r, x + 0.9 * r, y + 0.9 * r), fill=color)
    else:
        draw.polygon([(x, y - r), (x + r, y + 0.8 * r), (x - r, y + 0.8 * r)], fill=color)
