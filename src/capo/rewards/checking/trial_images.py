"""Pictures to try a reward on, drawn here: scenes of shapes, and signs with words on them."""

import random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from capo.shapes.grammar import draw_specs
from capo.shapes.layout import scene_of
from capo.shapes.scenes import draw

SIZE = 256
"""Pixels of a side."""
SCENES = 4
SIGNS = {
    'a sign that says "OPEN ALL DAY"': "OPEN ALL DAY",
    'a sign with the word "coffee"': "coffee",
    'a poster that reads "Hello World"': "something else",
}
"""Prompt → what is on the picture; the last misses it."""


def trial_images() -> tuple[list[Image.Image], list[str]]:
    """RGB images and their prompts, the same every time; one prompt is that of another's image."""
    rng = random.Random(0)
    specs = draw_specs("train", SCENES, 0)
    pixels = draw([scene_of(spec, rng) for spec in specs]).permute(0, 2, 3, 1).numpy()
    scenes = [
        Image.fromarray(np.uint8(255 * each + 0.5)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        for each in pixels
    ]
    texts = [spec.text for spec in specs]
    # The first picture again, with the prompt of the second: rewards of alignment should mind.
    return [*scenes, scenes[0], *map(_sign, SIGNS.values())], [*texts, texts[1], *SIGNS]


def _sign(words: str) -> Image.Image:
    image = Image.new("RGB", (SIZE, SIZE), "white")
    font = ImageFont.load_default(SIZE // 8)
    ImageDraw.Draw(image).text((SIZE / 2, SIZE / 2), words, "black", font, anchor="mm")
    return image
