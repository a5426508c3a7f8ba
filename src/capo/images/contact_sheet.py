"""Contact sheets: many images in one picture, a row for each prompt."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

GAP, MARGIN = 8, 16
FONT_SIZE, LINE = 15, 20
INK, FAINT, PAPER = "#1a1a1a", "#666666", "#ffffff"
SMALL = 128
"""Images with longer sides are shrunk smoothly; smaller ones are enlarged without smoothing."""


@dataclass(frozen=True)
class SheetRow:
    """A caption and its images, from left to right."""

    caption: str
    images: tuple[Image.Image, ...]


def contact_sheet(rows: Sequence[SheetRow], columns: Sequence[str] = (), side: int = 192) -> Image.Image:
    """Draw the rows below one another; every image fits into a square of `side` pixels.

    `columns` are titles above the images. Characters that the font lacks are drawn as boxes.
    """
    font = ImageFont.load_default(FONT_SIZE)
    across = max(len(row.images) for row in rows)
    width = 2 * MARGIN + across * side + (across - 1) * GAP
    characters = max(8, int((width - 2 * MARGIN) / font.getlength("n")))
    captions = [textwrap.wrap(row.caption, characters) or [""] for row in rows]
    top = MARGIN + (LINE if columns else 0)
    height = top + sum(len(lines) * LINE + side + 2 * GAP for lines in captions) + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, title in enumerate(columns):
        draw.text((MARGIN + i * (side + GAP), MARGIN), title, FAINT, font)
    for row, lines in zip(rows, captions, strict=True):
        for line in lines:
            draw.text((MARGIN, top), line, INK, font)
            top += LINE
        for i, image in enumerate(row.images):
            sheet.paste(_fitted(image, side), (MARGIN + i * (side + GAP), top))
        top += side + 2 * GAP
    return sheet


def _fitted(image: Image.Image, side: int) -> Image.Image:
    """Return the image with its longer side at `side` pixels."""
    longest = max(image.size)
    size = tuple(max(1, round(length * side / longest)) for length in image.size)
    smooth = Image.Resampling.NEAREST if longest <= SMALL else Image.Resampling.LANCZOS
    return image.convert("RGB").resize((size[0], size[1]), smooth)
