"""Scoring in batches: every image ends up with a finite score or the reason why it has none."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from capo.rewards.protocol import (
    ProtocolError,
    Reward,
    RewardError,
    RewardMemoryError,
    RewardTimeoutError,
    Scored,
    TimeLimited,
    TransientError,
    Truncating,
)

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

ATTEMPTS = 2
"""Calls with the same batch before its images are scored one by one."""
TIMEOUTS_PER_BATCH = 4
"""A batch that fails is retried for at most this many timeouts of its reward, over all its images."""
LONGEST_REASON = 500
"""Characters of an exception's message that are stored with the image."""


def score_images(
    reward: Reward, images: "Sequence[Image.Image]", prompts: Sequence[str], batch_size: int
) -> list[Scored]:
    """Score n images for their n prompts.

    The reward receives copies, and new ones for each retry, so a reward that edits images in place
    does not affect anything else. If a batch raises, it is retried once and then scored image by
    image, so that one bad image costs no other its score. NaN and infinite scores count as missing.

    Raises:
        RewardError: every image of two or more prompts failed (the first error is the cause), or
            the reward returned anything but n numbers.
        RewardMemoryError: memory ran out.
        TransientError: the reward is temporarily unavailable, or the retries of a batch take too long.
        ProtocolError: the reward broke the protocol.
    """
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} images with {len(prompts)} prompts")
    outcomes: list[Scored | Exception] = []
    for start in range(0, len(images), batch_size):
        batch = slice(start, start + batch_size)
        outcomes += _score_batch(reward, images[batch], prompts[batch])
    failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    # If there is only one prompt, the prompt itself may be what makes every image fail.
    if failures and len(failures) == len(images) and len(set(prompts)) > 1:
        raise RewardError(
            f"reward {reward.name!r} failed on every image; first error: {_reason(failures[0])}"
        ) from failures[0]
    cut = truncated(reward, prompts)
    return [
        Scored(None, _reason(o), c) if isinstance(o, Exception) else replace(o, truncated=c)
        for o, c in zip(outcomes, cut, strict=True)
    ]


def truncated(reward: Reward, prompts: Sequence[str]) -> list[bool | None]:
    """Return for each scored prompt whether `reward` read only its beginning; None if it does not say."""
    if not isinstance(reward, Truncating):
        return [None] * len(prompts)
    distinct = list(dict.fromkeys(prompts))
    answers = list(reward.truncated(list(distinct)))
    if len(answers) != len(distinct):
        raise RewardError(
            f"reward {reward.name!r}: `truncated` must return one value per prompt; it returned "
            f"{len(answers)} values for {len(distinct)} prompts"
        )
    by_prompt = dict(zip(distinct, answers, strict=True))
    return [None if by_prompt[prompt] is None else bool(by_prompt[prompt]) for prompt in prompts]


def validate_scores(name: str, raw: Any, count: int) -> "np.ndarray":
    """Return what a reward returned as float64 [count], with NaN for None and masked.

    Raises `RewardError` unless `raw` holds exactly `count` real numbers.
    """
    if isinstance(raw, list | tuple | np.ma.MaskedArray):
        raw = [_plain(value) for value in raw]
    elif hasattr(raw, "detach"):  # a torch tensor
        raw = float64(raw)
    expected = f"reward {name!r} must return {count} numbers for {count} images"
    try:
        values = np.asarray(raw)
        # numpy would parse text as numbers and drop the imaginary part of complex values.
        scores = values.astype(np.float64) if values.dtype.kind in "iufbO" else None
    except (TypeError, ValueError) as error:
        raise RewardError(f"{expected}, got {type(raw).__name__}: {error}") from error
    if scores is None:
        raise RewardError(f"{expected}, got values of type {values.dtype}")
    if scores.shape != (count,):
        raise RewardError(f"{expected}, got shape {scores.shape}")
    return scores


def _plain(value: Any) -> Any:
    """Return a value as numpy reads it: no tensor in bfloat16 or on a GPU, and None for a masked one."""
    if value is np.ma.masked:
        return None
    return float64(value) if hasattr(value, "detach") else value


def float64(scores: "Tensor") -> "np.ndarray":
    """Return scores of any precision and device as float64 on the CPU; Apple GPUs have no float64."""
    return scores.detach().cpu().double().numpy()


def is_out_of_memory(error: Exception) -> bool:
    """Return True if main memory or device memory ran out. Works without importing torch."""
    known = isinstance(error, MemoryError | RewardMemoryError)
    return known or type(error).__name__ == "OutOfMemoryError"


def _score_batch(
    reward: Reward, images: "Sequence[Image.Image]", prompts: Sequence[str]
) -> list[Scored | Exception]:
    started = time.monotonic()
    batch = _attempt(reward, images, prompts, started)
    if not isinstance(batch, Exception):
        return [*batch]
    if len(images) == 1:
        return [batch]
    outcomes: list[Scored | Exception] = []
    for image, prompt in zip(images, prompts, strict=True):
        single = _attempt(reward, [image], [prompt], started)
        outcomes += [single] if isinstance(single, Exception) else single
    return outcomes


def _attempt(
    reward: Reward, images: "Sequence[Image.Image]", prompts: Sequence[str], started: float
) -> list[Scored] | Exception:
    """Return the scores, or the error of the last attempt; a timeout is not attempted again.

    `started` is when the first attempt with these images began, alone or in a batch.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            raw = reward.score([image.copy() for image in images], list(prompts))
            break
        except (TransientError, RewardMemoryError, ProtocolError):
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise RewardMemoryError(
                    f"reward {reward.name!r}: out of memory with {len(images)} images at once; "
                    "lower batch_size of this reward in the recipe"
                ) from error
            _check_time(reward, started, error)
            if attempt == ATTEMPTS or isinstance(error, RewardTimeoutError):
                return error
    return [_scored(score) for score in validate_scores(reward.name, raw, len(images))]


def _check_time(reward: Reward, started: float, error: Exception) -> None:
    """Raise `TransientError` if the retries of a batch have taken too long."""
    if not isinstance(reward, TimeLimited):
        return
    seconds = time.monotonic() - started
    if seconds > TIMEOUTS_PER_BATCH * reward.timeout:
        raise TransientError(
            f"reward {reward.name!r}: a batch still fails after {seconds:.0f} s, more than "
            f"{TIMEOUTS_PER_BATCH} times its timeout; the last error: {_reason(error)}; fix the reward, "
            "raise its timeout or lower its batch_size, then rerun the same command to resume"
        ) from error


def _scored(score: "np.float64") -> Scored:
    return Scored(float(score)) if np.isfinite(score) else Scored(None, f"the score is {score}")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:LONGEST_REASON]
