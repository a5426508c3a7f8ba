import io

import numpy as np
import pytest
from PIL import Image

from capo.images.encoding import ENCODINGS, encode_image
from capo.rewards.rgb_images import as_rgb, decode_image


def png(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_transparency_becomes_white():
    image = Image.new("RGBA", (1, 1), (200, 0, 100, 0))
    assert as_rgb(image).getpixel((0, 0)) == (255, 255, 255)
    half = Image.new("RGBA", (1, 1), (0, 0, 0, 128))
    assert as_rgb(half).getpixel((0, 0)) == (127, 127, 127)


def test_palette_with_a_transparent_color():
    image = Image.new("P", (1, 1), 0)
    image.putpalette([10, 20, 30])
    assert as_rgb(image).getpixel((0, 0)) == (10, 20, 30)
    image.info["transparency"] = 0
    assert as_rgb(image).getpixel((0, 0)) == (255, 255, 255)


def test_gray_keeps_its_brightness():
    assert as_rgb(Image.new("L", (1, 1), 77)).getpixel((0, 0)) == (77, 77, 77)
    deep = Image.fromarray(np.array([[0x8000]], dtype=np.uint16))
    assert as_rgb(deep).getpixel((0, 0)) == (128, 128, 128)


def test_orientation_is_applied():
    image = Image.new("RGB", (2, 1))
    image.putpixel((0, 0), (255, 0, 0))
    image.getexif()[0x0112] = 6  # rotate by 90 degrees
    upright = as_rgb(image)
    assert upright.size == (1, 2)
    assert upright.getpixel((0, 0)) == (255, 0, 0)


def test_rgb_is_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(as_rgb(Image.fromarray(pixels)), pixels)


def test_png_round_trip():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode_image(png(Image.fromarray(pixels))), pixels)


def encoded(image_format):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return encode_image(Image.fromarray(noise), image_format)


@pytest.mark.parametrize("image_format", ENCODINGS)
def test_every_sample_format_is_read_if_complete(image_format):
    data = encoded(image_format)
    assert decode_image(data).size == (64, 64)
    with pytest.raises(ValueError, match="not a readable image"):
        decode_image(data[: len(data) // 2])


@pytest.mark.parametrize("data", [b"", b"not a picture", encoded("png")[8:]])
def test_incomplete_images_are_rejected(data):
    with pytest.raises(ValueError, match="not a readable image"):
        decode_image(data)


@pytest.mark.parametrize("name", ["TIFF", "GIF", "BMP", "AVIF"])
def test_other_formats_are_rejected_by_name(name):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, name)
    with pytest.raises(ValueError, match=f"not a readable image: it is a {name}"):
        decode_image(memoryview(buffer.getvalue()))


def test_a_decompression_bomb_is_rejected_before_decoding():
    data = bytearray(png(Image.new("L", (1, 1))))
    data[16:24] = (20_000).to_bytes(4, "big") * 2  # width and height of the header
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(ValueError, match="not a readable image: Image size"):
        decode_image(bytes(data))
