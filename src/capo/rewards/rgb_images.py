"""Images as reward models expect them."""

import io

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("PNG", "WEBP", "JPEG")
"""What samples are kept in; no other format's reader sees the bytes."""

MOST_PIXELS = (1 << 28) // 3
"""Of an image that is decoded: 256 MiB in RGB."""

LONGEST_STRIP = 16
"""Length over width of what is prepared for a model that looks at the middle square only."""


def decode_image(data: bytes) -> Image.Image:
    """The RGB image of stored bytes, decoded in full.

    Raises `ValueError` for anything but a whole image of `FORMATS`, of a size that memory can hold.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MOST_PIXELS:
            raise OSError(f"{image.width} x {image.height} pixels are too many")
        return as_rgb(image)
    except (OSError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"not a readable image: {error}") from error


def as_rgb(image: Image.Image) -> Image.Image:
    """Upright by its EXIF orientation, 8-bit RGB, transparency over white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        # Pillow would clip 16-bit grey at 255, which is white almost everywhere.
        image = Image.fromarray((np.asarray(image, dtype=np.uint16) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def crop_strip(image: Image.Image) -> Image.Image:
    """The middle of a long strip, `LONGEST_STRIP` times as long as wide; any other image as it is.

    For models that resize the short side and cut out the middle square: 1 x 4000 pixels would become
    224 x 896,000 before the cut.
    """
    short, long = sorted(image.size)
    if long <= LONGEST_STRIP * short:
        return image
    width, height = (min(side, LONGEST_STRIP * short) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
