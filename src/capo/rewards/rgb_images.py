"""Decode stored images and convert any image to the RGB form that rewards read."""

import io

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("PNG", "WEBP", "JPEG")
"""The formats of samples. No other decoder ever runs on the bytes."""

OTHER_FORMATS = (
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"\xff\n", "JPEG XL"),
    (4, b"JXL ", "JPEG XL"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyphei", "HEIC"),
)
"""Place and content of bytes that mark formats which are not decoded, and their names."""

MAX_PIXELS = (1 << 28) // 3
"""Largest image that is decoded: 256 MiB as RGB."""

MAX_ASPECT_RATIO = 16
"""Largest ratio of the sides that `crop_strip` leaves as it is."""


def decode_image(data: bytes | memoryview) -> Image.Image:
    """Decode stored bytes completely into an RGB image.

    Raises `ValueError` for anything but a complete image in one of `FORMATS` of at most `MAX_PIXELS`.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise OSError(f"{image.width} x {image.height} pixels are too many")
        return as_rgb(image)
    except (OSError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        kind = next((name for n, start, name in OTHER_FORMATS if data[n : n + len(start)] == start), None)
        reason = error if kind is None else f"it is a {kind}, and not a PNG, JPEG or WebP; convert it"
        raise ValueError(f"not a readable image: {reason}") from error


def decoded_bytes(data: bytes | memoryview) -> int:
    """Return the bytes of an image once it is decoded, from its header; 0 for anything but an image."""
    try:
        width, height = Image.open(io.BytesIO(data), formats=FORMATS).size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return 0
    return 3 * int(width) * int(height)


def as_rgb(image: Image.Image) -> Image.Image:
    """Return a copy as 8-bit RGB, rotated by its EXIF orientation, with transparency over white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        # Pillow would clip 16-bit gray at 255, which turns almost everything white.
        image = Image.fromarray((np.asarray(image, dtype=np.uint16) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def crop_strip(image: Image.Image) -> Image.Image:
    """Return the middle of a strip longer than `MAX_ASPECT_RATIO`; any other image as it is.

    For models that resize the short side and then crop the middle square: without the crop,
    1 x 4000 pixels would become 224 x 896,000.
    """
    short, long = sorted(image.size)
    if long <= MAX_ASPECT_RATIO * short:
        return image
    width, height = (min(side, MAX_ASPECT_RATIO * short) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
