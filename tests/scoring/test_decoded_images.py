"""Images are decoded once if they are small, and slice by slice if they would take too much memory."""

import io

import numpy as np
import pytest
from PIL import Image

from capo.rewards.rgb_images import decoded_bytes
from capo.scoring import decoded_images
from capo.scoring.decoded_images import DecodedImages


@pytest.fixture
def files():
    def encode(value):
        buffer = io.BytesIO()
        Image.new("RGB", (6, 4), (value, 0, 0)).save(buffer, "PNG")
        return buffer.getvalue()

    return [encode(value) for value in range(10)]


@pytest.fixture
def decoded(monkeypatch):
    """The images that were decoded, in order."""
    values = []

    def decode(data):
        image = decode_image(data)
        values.append(image.getpixel((0, 0))[0])
        return image

    decode_image = decoded_images.decode_image
    monkeypatch.setattr(decoded_images, "decode_image", decode)
    return values


def values(images):
    return [int(np.asarray(image)[0, 0, 0]) for image in images]


@pytest.mark.parametrize("kept", [0, 10**6])
def test_slices_of_chosen_rows_are_their_images(files, monkeypatch, kept):
    monkeypatch.setattr(decoded_images, "KEPT_BYTES", kept)
    images = DecodedImages(files)
    chosen = images.chosen([1, 3, 4, 7, 9])
    assert len(chosen) == 5
    assert values(chosen[0:2]) + values(chosen[2:4]) + values(chosen[4:6]) == [1, 3, 4, 7, 9]
    assert values(chosen) == [1, 3, 4, 7, 9]
    assert values(images) == list(range(10))
    assert values([images[-1]]) == [9]


def test_small_images_are_decoded_once_for_all_rewards(files, decoded):
    images = DecodedImages(files)
    for _ in range(3):
        for start in range(0, 10, 4):
            _ = images[start : start + 4]
    assert sorted(decoded) == list(range(10))


def test_large_images_are_not_kept(files, decoded, monkeypatch):
    monkeypatch.setattr(decoded_images, "KEPT_BYTES", decoded_bytes(files[0]) * 9)
    images = DecodedImages(files)
    for start in range(0, 10, 2):
        _ = images[start : start + 2]
        assert len(images._decoded) <= 2, "the next slice"
    assert sorted(decoded) == list(range(10)), "in one pass, each image is decoded once"


def test_a_file_that_is_not_an_image_is_an_error(files):
    with pytest.raises(ValueError, match="not a readable image"):
        DecodedImages([*files, b"text"])
