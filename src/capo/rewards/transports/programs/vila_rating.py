"""VILA's ratings for capo: `python vila_rating.py MODEL`, the folder or address of a SavedModel.

The released model takes the bytes of one image file and returns a mean opinion score in [0, 1].
"""

import io
import sys
from typing import Any

import tensorflow as tf
import tensorflow_hub as hub
from capo_reward import serve_stdio

SCALE = 10.0
"""From the release's scale to the paper's."""

model = hub.load(sys.argv[1])
rate = model.signatures["serving_default"]


def score(images: list[Any], prompts: list[str]) -> list[float]:
    return [SCALE * float(rate(tf.constant(png(image)))["predictions"].numpy().item()) for image in images]


def png(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


serve_stdio(score, comparison={"comparison": "bradley-terry", "temperature": 1.0})
