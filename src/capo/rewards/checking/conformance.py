"""The rules that every reward must follow. `capo rewards check` runs them."""

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
"""Largest change of a score by the other images of its batch, as a fraction of the spread of all scores."""
UNUSUAL_PROMPTS = {
    "an empty prompt": "",
    "a blank prompt": "   ",
    "a prompt in several scripts": "une fenêtre, 窓, окно, \N{BICYCLE}",
    "a prompt of 400 words": "a red circle and " * 100,
}


@dataclass(frozen=True)
class CheckedRule:
    """One rule, and how the reward breaks it (None if it does not)."""

    what: str
    problem: str | None = None


@dataclass
class Report:
    """The scores of the trial images, NaN where missing, and the result of every check."""

    scores: np.ndarray
    checks: list[CheckedRule] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return all(check.problem is None for check in self.checks)


def check_reward(reward: Reward, images: "list[Image.Image]", prompts: list[str]) -> Report:
    """Check `reward` on n images and their prompts, at least two of which should get different scores.

    Raises only `TransientError`. Every other failure becomes a problem in the report.
    """
    copied_images, copied_prompts = [image.copy() for image in images], list(prompts)
    scores, problem = _score(reward, copied_images, copied_prompts)
    report = Report(scores, [CheckedRule("returns one number per image", problem)])
    if problem is None:
        problem = _edited(images, copied_images) or _edited_prompts(prompts, copied_prompts)
        report.checks.append(CheckedRule("leaves images and prompts unchanged", problem))
        report.checks += _checks(reward, images, prompts, scores)
    return report


def _checks(
    reward: Reward, images: "list[Image.Image]", prompts: list[str], scores: np.ndarray
) -> Iterator[CheckedRule]:
    yield CheckedRule("returns finite numbers for ordinary images", _missing(scores))
    again, problem = _score_copies(reward, images, prompts)
    problem = problem or _difference(scores, again, exact=True)
    yield CheckedRule("returns the same numbers on a second call", problem)
    pairs = zip(images, prompts, strict=True)
    single, problems = zip(*(_score_copies(reward, [i], [p]) for i, p in pairs), strict=True)
    problem = next(filter(None, problems), None) or _difference(scores, np.concatenate(single))
    yield CheckedRule("scores an image the same in a batch and alone", problem)
    order = np.roll(np.arange(len(images))[::-1], 1)
    moved, problem = _score_copies(reward, [images[i] for i in order], [prompts[i] for i in order])
    yield CheckedRule("scores an image the same in any order", problem or _difference(scores[order], moved))
    for what, prompt in UNUSUAL_PROMPTS.items():
        _, problem = _score_copies(reward, images[:2], [prompt, prompts[1]])
        yield CheckedRule(f"accepts {what}", problem)
    yield _range_check(reward, scores)
    yield CheckedRule("declares how its scores compare", _invalid_comparison(reward, scores))


def _score(reward: Reward, images: "list[Image.Image]", prompts: list[str]) -> tuple[np.ndarray, str | None]:
    """Return float64 [n] scores, NaN where missing, and the problem if scoring failed."""
    count = len(images)
    try:
        return validate_scores(reward.name, reward.score(images, prompts), count), None
    except TransientError:
        raise
    except Exception as error:
        return np.full(count, np.nan), f"{type(error).__name__}: {error}"


def _score_copies(
    reward: Reward, images: "list[Image.Image]", prompts: list[str]
) -> tuple[np.ndarray, str | None]:
    return _score(reward, [image.copy() for image in images], list(prompts))


def _edited(images: "list[Image.Image]", copies: "list[Image.Image]") -> str | None:
    """Compare the images after the call with the originals; return the first difference."""
    if len(copies) != len(images):
        return f"the list of images has {len(copies)} entries after the call, but {len(images)} before it"
    for number, (before, after) in enumerate(zip(images, copies, strict=True), start=1):
        if (before.mode, before.size) != (after.mode, after.size) or before.tobytes() != after.tobytes():
            return f"the call changed image {number}; work on image.copy()"
    return None


def _edited_prompts(prompts: list[str], copies: list[str]) -> str | None:
    return None if copies == prompts else "the call changed the list of prompts; work on a copy"


def _missing(scores: np.ndarray) -> str | None:
    missing = int((~np.isfinite(scores)).sum())
    return f"{missing} of {len(scores)} images have no score" if missing else None


def _difference(scores: np.ndarray, others: np.ndarray, exact: bool = False) -> str | None:
    """Return the first score that differs by more than `TOLERANCE`. Missing scores count as equal."""
    present = scores[np.isfinite(scores)]
    allowed = 0.0
    if len(present) and not exact:
        allowed = TOLERANCE * float(np.ptp(present)) + 1e-6 * float(np.abs(present).max())
    differs = ~np.isclose(scores, others, rtol=0, atol=allowed, equal_nan=True)
    if not differs.any():
        return None
    first = int(differs.argmax())
    return f"image {first + 1}: {scores[first]:.9g}, then {others[first]:.9g}"


def _range_check(reward: Reward, scores: np.ndarray) -> CheckedRule:
    """Check against the declared range. The power ratio has no meaning below 0."""
    declared: Any = getattr(reward, "range", None)
    low, high = declared or (-np.inf, np.inf)
    what = "stays within its declared range" if declared else "no range declared, so none is checked"
    if isinstance(reward.comparison, PowerRatio):
        low = max(low, 0.0)
        what = what if declared else "is never negative, as the power ratio requires"
    outside = scores[(scores < low) | (scores > high)]
    return CheckedRule(what, f"{outside[0]:g} is outside {low:g} to {high:g}" if len(outside) else None)


def _invalid_comparison(reward: Reward, scores: np.ndarray) -> str | None:
    import torch

    if reward.comparison is None:
        return "it declares none; a recipe that trains on it must set `comparison`"
    present = torch.from_numpy(np.sort(scores[np.isfinite(scores)]))
    try:
        wins = torch.as_tensor(reward.comparison(present[:, None], present[None, :])).double()
    except Exception as error:  # a comparison of the user's own can raise anything
        return f"{type(error).__name__}: {error}"
    if wins.shape != (len(present),) * 2 or not torch.allclose(wins + wins.T, torch.ones_like(wins)):
        return "the win probabilities of two scores do not add up to 1"
    if (wins.diff(dim=0) < -1e-6).any():
        return "a higher score wins less often than a lower one"
    return None
