"""What every reward must keep to, whoever wrote it: `capo rewards check`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from capo.method.calibration import PowerRatio
from capo.rewards.batch_scoring import validate_scores
from capo.rewards.protocol import Reward, TransientError

if TYPE_CHECKING:
    from PIL import Image

TOLERANCE = 0.01
"""Of the spread of the sample scores: what the company of a batch may change of a score."""
STRANGE_PROMPTS = {
    "an empty prompt": "",
    "a blank prompt": "   ",
    "a prompt in other scripts": "une fenêtre, 窓, окно, \N{BICYCLE}",
    "a prompt of 400 words": "a red circle and " * 100,
}


@dataclass(frozen=True)
class Check:
    """One thing a reward must keep to, and how it does not, if so."""

    what: str
    problem: str | None = None


@dataclass
class Report:
    """The scores of the samples, NaN where missing, and all checks."""

    scores: np.ndarray
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return all(check.problem is None for check in self.checks)


def check_reward(reward: Reward, images: "list[Image.Image]", prompts: list[str]) -> Report:
    """Try `reward` on n images and their prompts, at least two of whose scores should differ.

    Only `TransientError` is raised; whatever else goes wrong is a problem in the report.
    """
    name = "gives one number for each image"
    scores, problem = _scores(reward, images, prompts)
    report = Report(scores, [Check(name, problem)])
    if problem is None:
        report.checks += _checks(reward, images, prompts, scores)
    return report


def _checks(
    reward: Reward, images: "list[Image.Image]", prompts: list[str], scores: np.ndarray
) -> Iterator[Check]:
    yield Check("gives a finite number for ordinary images", _missing(scores))
    again, problem = _scores(reward, images, prompts)
    yield Check("gives the same numbers again", problem or _difference(scores, again, exact=True))
    singly = [_scores(reward, [image], [prompt]) for image, prompt in zip(images, prompts, strict=True)]
    problem = next((each for _, each in singly if each), None)
    alone = np.concatenate([each for each, _ in singly])
    yield Check("gives an image the same number in any batch", problem or _difference(scores, alone))
    order = np.roll(np.arange(len(images))[::-1], 1)
    moved, problem = _scores(reward, [images[i] for i in order], [prompts[i] for i in order])
    yield Check("gives the same numbers in any order", problem or _difference(scores[order], moved))
    for what, prompt in STRANGE_PROMPTS.items():
        _, problem = _scores(reward, images[:2], [prompt, prompts[1]])
        yield Check(f"takes {what}", problem)
    yield Check("keeps to its range", _out_of_range(reward, scores))
    yield Check("says how its scores compare", _incomparable(reward, scores))


def _scores(reward: Reward, images: "list[Image.Image]", prompts: list[str]) -> tuple[np.ndarray, str | None]:
    """Float64 [n], NaN where missing, and what went wrong, if it did."""
    try:
        # Copies: a reward may draw on what it is given.
        raw = reward.score([image.copy() for image in images], list(prompts))
        return validate_scores(reward.name, raw, len(images)), None
    except TransientError:
        raise
    except Exception as error:
        return np.full(len(images), np.nan), f"{type(error).__name__}: {error}"


def _missing(scores: np.ndarray) -> str | None:
    missing = int((~np.isfinite(scores)).sum())
    return f"{missing} of {len(scores)} have none" if missing else None


def _difference(scores: np.ndarray, others: np.ndarray, exact: bool = False) -> str | None:
    """How far two series are apart, if more than `TOLERANCE` of the spread; missing ones are equal."""
    present = scores[np.isfinite(scores)]
    allowed = 0.0
    if len(present) and not exact:
        allowed = TOLERANCE * float(np.ptp(present)) + 1e-6 * float(np.abs(present).max())
    apart = ~np.isclose(scores, others, rtol=0, atol=allowed, equal_nan=True)
    if not apart.any():
        return None
    first = int(apart.argmax())
    return f"image {first + 1}: {scores[first]:.9g}, then {others[first]:.9g}"


def _out_of_range(reward: Reward, scores: np.ndarray) -> str | None:
    declared: Any = getattr(reward, "range", None)
    low, high = declared or (-np.inf, np.inf)
    if isinstance(reward.comparison, PowerRatio):
        low = max(low, 0.0)  # it has no meaning below
    outside = scores[(scores < low) | (scores > high)]
    return f"{outside[0]:g} is outside {low:g} to {high:g}" if len(outside) else None


def _incomparable(reward: Reward, scores: np.ndarray) -> str | None:
    import torch

    if reward.comparison is None:
        return "it does not: its recipe must, by `comparison`"
    present = torch.from_numpy(np.sort(scores[np.isfinite(scores)]))
    try:
        wins = torch.as_tensor(reward.comparison(present[:, None], present[None, :])).double()
    except Exception as error:  # one of the user's own
        return f"{type(error).__name__}: {error}"
    if wins.shape != (len(present),) * 2 or not torch.allclose(wins + wins.T, torch.ones_like(wins)):
        return "its probabilities that the one and that the other of two wins do not add up to 1"
    if (wins.diff(dim=0) < -1e-6).any():
        return "a higher score wins less often than a lower one"
    return None
