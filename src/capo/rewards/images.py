"""Images as reward models expect them."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("PNG", "WEBP", "JPEG")
"""What samples are kept in; no other format's reader sees the bytes."""


def decode_image(data: bytes) -> Image.Image:
    """The RGB image of stored bytes, decoded in full.

    Raises `ValueError` for anything but a whole image of `FORMATS`, of a size that memory can hold.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return as_rgb(Image.open(io.BytesIO(data), formats=FORMATS))
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
