"""Scoring in batches, strictly: every image gets a finite score or the reason why it has none."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from capo.rewards.protocol import (
    Reward,
    RewardError,
    RewardMemoryError,
    Scored,
    TransientError,
    Truncating,
)

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

LONGEST_REASON = 500
"""Characters of an exception's text that are kept."""


def score_images(
    reward: Reward, images: "Sequence[Image.Image]", prompts: Sequence[str], batch_size: int
) -> list[Scored]:
    """Score n images for their n prompts.

    A batch in which the reward raises is tried once more, then image by image, so that one bad
    image costs no other its score. NaN and infinite scores are missing ones. Raises
    `RewardError` when every image of more than one prompt fails (with the first cause), when
    memory runs out, and when the reward returns anything but n numbers; `TransientError` when it
    cannot answer for now.
    """
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} images with {len(prompts)} prompts")
    outcomes: list[Scored | Exception] = []
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        outcomes += _score_batch(reward, list(images[part]), list(prompts[part]))
    failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    # All images of a single prompt may fail because of that prompt.
    if failures and len(failures) == len(images) and len(set(prompts)) > 1:
        raise RewardError(
            f"reward {reward.name!r} failed on every image; the first time with {_reason(failures[0])}"
        ) from failures[0]
    cut = truncated(reward, prompts)
    return [
        Scored(None, _reason(o), c) if isinstance(o, Exception) else replace(o, truncated=c)
        for o, c in zip(outcomes, cut, strict=True)
    ]


def truncated(reward: Reward, prompts: Sequence[str]) -> list[bool | None]:
    """Whether `reward` read only the beginning of each prompt that it scored; None where it does not tell."""
    if not isinstance(reward, Truncating):
        return [None] * len(prompts)
    distinct = list(dict.fromkeys(prompts))
    answers = list(reward.truncated(distinct))
    if len(answers) != len(distinct):
        raise RewardError(
            f"reward {reward.name!r}: its `truncated` must tell of each of {len(distinct)} prompts, "
            f"it tells of {len(answers)}"
        )
    told = dict(zip(distinct, answers, strict=True))
    return [None if told[prompt] is None else bool(told[prompt]) for prompt in prompts]


def _score_batch(reward: Reward, images: "list[Image.Image]", prompts: list[str]) -> list[Scored | Exception]:
    for attempt in range(2):
        try:
            raw = reward.score(images, prompts)
            break
        except (TransientError, RewardMemoryError):
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise RewardMemoryError(
                    f"reward {reward.name!r}: out of memory with {len(images)} images at once; "
                    f"lower batch_size of this reward in the recipe"
                ) from error
            if attempt == 1:
                if len(images) == 1:
                    return [error]
                return [_score_batch(reward, [i], [p])[0] for i, p in zip(images, prompts, strict=True)]
    return [_scored(score) for score in validate_scores(reward.name, raw, len(images))]


def validate_scores(name: str, raw: Any, count: int) -> "np.ndarray":
    """`raw` as float64 [count]; None becomes NaN."""
    if hasattr(raw, "detach"):  # a torch tensor
        raw = float64(raw)
    expected = f"reward {name!r} must return {count} numbers for {count} images"
    try:
        given = np.asarray(raw)
        # Text would be parsed as numbers, and complex ones cut.
        scores = given.astype(np.float64) if given.dtype.kind in "iufbO" else None
    except (TypeError, ValueError) as error:
        raise RewardError(f"{expected}, got {type(raw).__name__}: {error}") from error
    if scores is None:
        raise RewardError(f"{expected}, got values of type {given.dtype}")
    if scores.shape != (count,):
        raise RewardError(f"{expected}, got shape {scores.shape}")
    return scores


def float64(scores: "Tensor") -> "np.ndarray":
    """Scores of any precision and device in main memory: not every device has float64, as Apple's."""
    return scores.detach().cpu().double().numpy()


def _scored(score: "np.float64") -> Scored:
    return Scored(float(score)) if np.isfinite(score) else Scored(None, f"the score is {score}")


def is_out_of_memory(error: Exception) -> bool:
    """Whether main memory or a device's ran out; torch need not be imported to tell."""
    known = isinstance(error, MemoryError | RewardMemoryError)
    return known or type(error).__name__ == "OutOfMemoryError"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:LONGEST_REASON]
