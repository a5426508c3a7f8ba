"""Images, prompts and scores as JSON, in the format that programs and servers use."""

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from capo.engine.plain_text import plain_text
from capo.rewards.protocol import ProtocolError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

PROTOCOL = 1

LONGEST_REPLY = 16 * 2**20
"""Bytes of a reply: a hundred thousand scores, with room to spare."""

SHOWN = 200
"""Characters of an unexpected reply in an error message."""
LONGEST_REASON = 2000
"""Characters of the reason for which an image has no score."""


def encode_request(images: "list[Image.Image]", prompts: list[str]) -> dict[str, Any]:
    """Return n images, as lossless PNG, and their n prompts."""
    return {"images": [{"png": _png(image)} for image in images], "prompts": prompts}


def decode_request(request: Any) -> tuple[list[bytes], list[str]]:
    """Return the image files and prompts of a request; raises `ValueError` for anything else."""
    match request:
        case {"images": list(images), "prompts": list(prompts)} if len(images) == len(prompts):
            if not all(isinstance(prompt, str) for prompt in prompts):
                raise ValueError("prompts must be strings")
            return [_image_file(image) for image in images], prompts
    raise ValueError("expected a list of images and as many prompts")


def encode_reply(scores: "np.ndarray", truncated: "Sequence[bool | None]") -> dict[str, Any]:
    """Return scores [n], null where one is missing, and `truncated` if the reward reports it."""
    import numpy as np

    reply: dict[str, Any] = {"scores": [float(score) if np.isfinite(score) else None for score in scores]}
    return reply if all(cut is None for cut in truncated) else reply | {"truncated": list(truncated)}


def decode_reply(reward: str, reply: Any, count: int) -> "np.ndarray":
    """Return float64 [count], NaN where a score is missing.

    Raises `RuntimeError` with the reason if the images could not be scored, which may succeed in a smaller
    batch, and `ProtocolError` for anything other than `count` scores.
    """
    import numpy as np

    match reply:
        case {"error": str(reason)}:
            raise RuntimeError(plain_text(reason[:LONGEST_REASON]))
        case {"scores": list(scores)} if len(scores) == count and all(map(_is_score, scores)):
            errors = reply.get("errors") or [None] * count
            if isinstance(errors, list) and len(errors) == count:
                for number, reason in enumerate(errors, start=1):
                    if reason is not None:
                        text = plain_text(str(reason)[:LONGEST_REASON])
                        raise RuntimeError(text if count == 1 else f"image {number}: {text}")
                return np.array([np.nan if score is None else score for score in scores], dtype=np.float64)
    raise ProtocolError(f"reward {reward!r} must answer with {count} scores, got {_excerpt(reply)}")


def check_hello(reward: str, reply: Any) -> dict[str, Any]:
    """Return the first reply of a program or server if it uses this protocol."""
    if isinstance(reply, dict) and reply.get("protocol") == PROTOCOL:
        return reply
    raise ProtocolError(
        f"reward {reward!r}: expected a reply with protocol {PROTOCOL}, got {_excerpt(reply)}; use the "
        "capo or capo_reward.py of the same version there"
    )


class TruncationRecord:
    """Remembers which prompts a program or server reported as truncated."""

    def __init__(self) -> None:
        self._truncated: dict[str, bool] = {}

    def add(self, reward: str, reply: dict[str, Any], prompts: list[str]) -> None:
        """Take `truncated` of a reply, if it has one; raises `ProtocolError` unless it fits the prompts."""
        cut = reply.get("truncated")
        if cut is None:
            return
        if (
            not isinstance(cut, list)
            or len(cut) != len(prompts)
            or not all(c in (True, False, None) for c in cut)
        ):
            raise ProtocolError(
                f"reward {reward!r}: `truncated` of a reply must be true, false or null for each of "
                f"{len(prompts)} prompts, got {_excerpt(cut)}"
            )
        self._truncated |= {p: bool(c) for p, c in zip(prompts, cut, strict=True) if c is not None}

    def truncated(self, prompts: list[str]) -> list[bool | None]:
        """Return for each prompt whether it is longer than what the reward reads; None if unknown."""
        return [self._truncated.get(prompt) for prompt in prompts]


def _excerpt(reply: Any) -> str:
    return plain_text(str(reply)[:SHOWN])


def _is_score(score: Any) -> bool:
    return score is None or (isinstance(score, int | float) and not isinstance(score, bool))


def _png(image: "Image.Image") -> str:
    from capo.rewards.rgb_images import as_rgb

    buffer = io.BytesIO()
    # Level 1: the connection is faster than the compressor.
    as_rgb(image).save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _image_file(image: Any) -> bytes:
    match image:
        case {"png": str(data)}:
            return base64.b64decode(data, validate=True)
    raise ValueError('an image must have the form {"png": base64}')
