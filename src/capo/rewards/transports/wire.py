"""Images, prompts and scores as JSON: what is spoken with programs and servers."""

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from capo.rewards.protocol import RewardError
from capo.rewards.rgb_images import as_rgb, decode_image

if TYPE_CHECKING:
    from PIL import Image

PROTOCOL = 1


def question(images: "list[Image.Image]", prompts: list[str]) -> dict[str, Any]:
    """N images, as lossless PNG, and their n prompts."""
    return {"images": [{"png": _png(image)} for image in images], "prompts": prompts}


def read_question(asked: Any) -> "tuple[list[Image.Image], list[str]]":
    """The images and prompts of a `question`; raises `ValueError` for anything else."""
    match asked:
        case {"images": list(images), "prompts": list(prompts)} if len(images) == len(prompts):
            if not all(isinstance(prompt, str) for prompt in prompts):
                raise ValueError("prompts must be texts")
            return [_image(each) for each in images], prompts
    raise ValueError("expected images and as many prompts")


class Memory:
    """What a reward that is elsewhere said of the prompts it scored."""

    def __init__(self) -> None:
        self._truncated: dict[str, bool] = {}

    def keep(self, reward: str, told: dict[str, Any], prompts: list[str]) -> None:
        """Note `truncated` of an answer, if it has that; raises `RewardError` unless it is one a prompt."""
        cut = told.get("truncated")
        if cut is None:
            return
        if (
            not isinstance(cut, list)
            or len(cut) != len(prompts)
            or not all(c in (True, False, None) for c in cut)
        ):
            raise RewardError(
                f"reward {reward!r}: `truncated` of an answer must be true, false or null for each of "
                f"{len(prompts)} prompts, got {str(cut)[:200]}"
            )
        self._truncated |= {p: bool(c) for p, c in zip(prompts, cut, strict=True) if c is not None}

    def truncated(self, prompts: list[str]) -> list[bool | None]:
        """Whether each prompt was longer than what the reward reads; None where it did not say."""
        return [self._truncated.get(prompt) for prompt in prompts]


def answer(scores: np.ndarray, truncated: "Sequence[bool | None]") -> dict[str, Any]:
    """Scores [n], null where there is none; `truncated` where the reward tells it."""
    told = {} if all(cut is None for cut in truncated) else {"truncated": list(truncated)}
    return {"scores": [float(score) if np.isfinite(score) else None for score in scores], **told}


def read_answer(reward: str, told: Any, count: int) -> np.ndarray:
    """float64 [count], NaN where there is no score.

    Raises `RuntimeError` with the reason when the images could not be scored, which a smaller
    batch may yet be, and `RewardError` for what is no answer at all.
    """
    match told:
        case {"error": str(reason)}:
            raise RuntimeError(reason)
        case {"scores": list(scores)}:
            for place, reason in enumerate(told.get("errors") or ()):
                if reason is not None:
                    raise RuntimeError(str(reason) if count == 1 else f"image {place + 1}: {reason}")
            if len(scores) == count and all(_is_score(score) for score in scores):
                return np.array([np.nan if score is None else score for score in scores], dtype=np.float64)
    raise RewardError(f"reward {reward!r} must answer with {count} scores, got {str(told)[:200]}")


def check_protocol(reward: str, told: Any) -> Any:
    """The first answer of a program or server, if it speaks this protocol."""
    if isinstance(told, dict) and told.get("protocol") == PROTOCOL:
        return told
    raise RewardError(
        f"reward {reward!r}: expected an answer of protocol {PROTOCOL}, got {str(told)[:200]}; "
        "is its capo, or its capo_reward.py, of another version?"
    )


def _is_score(score: Any) -> bool:
    return score is None or (isinstance(score, int | float) and not isinstance(score, bool))


def _png(image: "Image.Image") -> str:
    buffer = io.BytesIO()
    # Level 1: the line is faster than the compressor.
    as_rgb(image).save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _image(told: Any) -> "Image.Image":
    match told:
        case {"png": str(data)}:
            return decode_image(base64.b64decode(data, validate=True))
    raise ValueError('an image is written as {"png": base64}')
