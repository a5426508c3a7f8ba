"""Estimates over the prompts of an evaluation: means, intervals, tests.

Notation: P prompts, K images of each from every model. Scores are float64 [P, K] and values float64 [P], NaN
where one is missing; missing values are left out.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from capo.method import (
    detectable_difference,
    mean_interval,
    paired_difference,
    prompts_needed,
    same_seed_win_rate,
    sign_test,
    standard_error,
    win_rate,
)
from capo.rewards import RewardError

Limits = tuple[float, float]

RATE = (0.0, 1.0)
"""Bounds of win-rates."""

CHANGE = (-1.0, 1.0)
"""Bounds of differences between shares."""

PLANNED_POINTS = (1, 2, 5)
"""Differences of win-rates, in percentage points, for which results say how many prompts they need."""


def prompt_win_rates(name: str, candidate: np.ndarray, base: np.ndarray) -> np.ndarray:
    """The win-rate of every prompt [P], over the images with a score; NaN where one model has none.

    Raises `RewardError`, naming the reward `name`, when no prompt is left.
    """
    rates = _rates(candidate, np.isfinite(candidate), base, np.isfinite(base), win_rate)
    if np.isnan(rates).all():
        raise RewardError(f"reward {name!r} scored both models on none of the {len(base)} prompts")
    return rates


def same_seed_win_rates(candidate: np.ndarray, base: np.ndarray) -> np.ndarray:
    """The win-rate of every prompt [P], comparing only images with the same number, which share noise."""
    both = np.isfinite(candidate) & np.isfinite(base)
    return _rates(candidate, both, base, both, same_seed_win_rate)


def joint_domination(candidate: Sequence[np.ndarray], base: Sequence[np.ndarray]) -> np.ndarray:
    """The share of every prompt's images that dominate the other model's image of the same number [P].

    Both have the scores [P, K] of all rewards. An image dominates another if it is nowhere worse and
    somewhere better. NaN for a prompt without two images that all rewards have scored.
    """
    ours, theirs = np.stack(candidate), np.stack(base)
    known = (np.isfinite(ours) & np.isfinite(theirs)).all(axis=0)
    wins = known & (ours >= theirs).all(axis=0) & (ours > theirs).any(axis=0)
    counts = known.sum(axis=1)
    return np.divide(wins.sum(axis=1), counts, out=np.full(len(counts), np.nan), where=counts > 0)


def prompt_means(scores: np.ndarray) -> np.ndarray:
    """The mean of every prompt's scores [P], NaN for a prompt without scores."""
    known = np.isfinite(scores)
    counts = known.sum(axis=1)
    sums = np.where(known, scores, 0.0).sum(axis=1)
    return np.divide(sums, counts, out=np.full(len(scores), np.nan), where=counts > 0)


def present(values: np.ndarray) -> np.ndarray:
    """The values that are not missing."""
    return values[np.isfinite(values)]


def estimate(name: str, values: np.ndarray, limits: Limits, prefix: str = "") -> dict[str, float]:
    """The mean, under the key `name`, and its 95% interval; `limits` are the bounds of a single value."""
    return {name: float(np.nanmean(values))} | bounds(values, limits, prefix)


def bounds(values: np.ndarray, limits: Limits, prefix: str = "") -> dict[str, float]:
    """`low` and `high`, the 95% interval of the mean."""
    low, high = mean_interval(torch.from_numpy(present(values)), limits)
    return {f"{prefix}low": low, f"{prefix}high": high}


def difference(candidate: np.ndarray, base: np.ndarray, seed: int) -> dict[str, float | None]:
    """The difference of the means, paired by prompt: `value`, `low`, `high`, and `p`.

    `seed` determines the sign flips. Bounds are None if all differences are equal. Raises `ValueError` when
    no prompt has both.
    """
    both = np.isfinite(candidate) & np.isfinite(base)
    found = paired_difference(torch.from_numpy(candidate[both]), torch.from_numpy(base[both]), seed)
    return {name: value if math.isfinite(value) else None for name, value in asdict(found).items()}


def prompt_error(values: np.ndarray) -> float | None:
    """The standard error of the mean over prompts; None for a single prompt."""
    known = present(values)
    return standard_error(torch.from_numpy(known)) if len(known) > 1 else None


def signs(rates: np.ndarray) -> dict[str, Any]:
    """The numbers of prompts `won`, `lost`, and `tied`, and the `p` of the sign test."""
    return asdict(sign_test(torch.from_numpy(present(rates)), 0.5))


def power(rates: np.ndarray) -> dict[str, Any] | None:
    """The `detectable` difference of a win-rate, and the `prompts_needed` for others (80% power, 5% level).

    None for a single prompt.
    """
    known = torch.from_numpy(present(rates))
    if len(known) < 2:
        return None
    needed = [{"points": d, "prompts": prompts_needed(known, d / 100)} for d in PLANNED_POINTS]
    return {"detectable": detectable_difference(known), "prompts_needed": needed}


def _rates(
    candidate: np.ndarray,
    has_candidate: np.ndarray,
    base: np.ndarray,
    has_base: np.ndarray,
    rate: Callable[[Tensor, Tensor], Tensor],
) -> np.ndarray:
    whole = has_candidate.all(axis=1) & has_base.all(axis=1)
    partial = has_candidate.any(axis=1) & has_base.any(axis=1) & ~whole
    rates = np.full(len(base), np.nan)
    rates[whole] = rate(torch.from_numpy(candidate[whole]), torch.from_numpy(base[whole]))
    for p in np.flatnonzero(partial):
        left, right = candidate[p][has_candidate[p]], base[p][has_base[p]]
        rates[p] = rate(torch.from_numpy(left)[None], torch.from_numpy(right)[None]).item()
    return rates
