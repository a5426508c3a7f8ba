"""Images and prompts to try a reward on: colored shapes, and signs with words."""

from PIL import Image, ImageDraw, ImageFont

SIDE = 256
"""Pixels of a side of every image."""
SHAPES = {
    "a red circle": [("circle", "red", 0.5, 0.5)],
    "a blue square to the left of a yellow circle": [
        ("square", "blue", 0.25, 0.5),
        ("circle", "gold", 0.75, 0.5),
    ],
    "two green triangles": [("triangle", "green", 0.25, 0.3), ("triangle", "green", 0.7, 0.7)],
    "a purple triangle above an orange square": [
        ("triangle", "purple", 0.5, 0.25),
        ("square", "orange", 0.5, 0.75),
    ],
}
"""Prompt → shape, color and center (as fractions of the side) of everything in the image."""
SIGNS = {
    'a sign that says "OPEN ALL DAY"': "OPEN ALL DAY",
    'a sign with the word "coffee"': "coffee",
    'a poster that reads "Hello World"': "something else",
}
"""Prompt → the words in the image. The last image does not match its prompt."""


def trial_images() -> tuple[list[Image.Image], list[str]]:
    """Return RGB images and their prompts, the same on every call.

    The first image appears twice, the second time with the prompt of another image, which a reward
    that measures alignment should score lower.
    """
    drawn = [_draw_shapes(shapes) for shapes in SHAPES.values()]
    mismatched = list(SHAPES)[1]
    return [*drawn, drawn[0].copy(), *map(_draw_sign, SIGNS.values())], [*SHAPES, mismatched, *SIGNS]


def _draw_shapes(shapes: list[tuple[str, str, float, float]]) -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE), "whitesmoke")
    draw = ImageDraw.Draw(image)
    radius = 0.17 * SIDE
    for shape, color, x, y in shapes:
        center_x, center_y = x * SIDE, y * SIDE
        box = (center_x - radius, center_y - radius, center_x + radius, center_y + radius)
        if shape == "circle":
            draw.ellipse(box, color)
        elif shape == "square":
            draw.rectangle(box, color)
        else:
            draw.polygon([(center_x, box[1]), (box[2], box[3]), (box[0], box[3])], color)
    return image


def _draw_sign(words: str) -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE), "white")
    font = ImageFont.load_default(SIDE // 8)
    ImageDraw.Draw(image).text((SIDE / 2, SIDE / 2), words, "black", font, anchor="mm")
    return image
