"""Image files as `generate.image_format` asks for them."""

import io
from typing import Any

from PIL import Image

ENCODINGS: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG", "compress_level": 1},  # three times faster than the default, slightly larger
    "webp": {"format": "WEBP", "quality": 95},
    "jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},  # full color resolution
}
"""Arguments of `Image.save` by `generate.image_format`."""


def encode_image(image: Image.Image, image_format: str) -> bytes:
    """Return the bytes of an image file in one of `ENCODINGS`."""
    buffer = io.BytesIO()
    image.save(buffer, **ENCODINGS[image_format])
    return buffer.getvalue()
