"""VILA's ratings for capo: `python vila_rating.py PLACE`, a SavedModel's folder or its address.

The released model takes one image as the bytes of its file, and gives a mean opinion in [0, 1].
"""

import io
import sys
from typing import Any

import tensorflow as tf
import tensorflow_hub as hub
from capo_reward import serve_stdio

TIMES = 10.0
"""From the release's scale to that of the paper."""

model = hub.load(sys.argv[1])
rate = model.signatures["serving_default"]


def score(images: list[Any], prompts: list[str]) -> list[float]:
    return [TIMES * float(rate(tf.constant(png(image)))["predictions"].numpy().item()) for image in images]


def png(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


serve_stdio(score, comparison={"comparison": "bradley-terry", "temperature": 1.0})
