"""Intervals and paired comparisons of weighted means over prompts.

A weighted mean is the mean of `w_p · v_p`, with weights of mean 1. Prompts of fixed categories are drawn
within them, so variances are those of `R + w_p · (v_p - m_c(p))` with the mean R and the category's mean m_c.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from capo.benchmarks.summary import Score
from capo.method import (
    detectable_difference,
    mean_interval,
    prompts_needed,
    sign_flip_p,
    sign_test,
)
from capo.reporting.benchmark_schema import Level, PairedScore
from capo.reporting.results_schema import PromptsNeeded, SignTestResult

PLANNED_POINTS = (1, 2, 5)
"""Differences in points for which results say how many prompts they take."""

EQUAL = 1e-12
"""Values that differ by less are equal but for rounding."""

NO_BOUNDS = (-math.inf, math.inf)


def level(score: Score, bounds: tuple[float, float] | None) -> Level | None:
    """Return the score with its interval; None without any value. `bounds` are those of a single value."""
    prompts = sorted(score.values)
    mean = score.value
    if mean is None:
        return None
    values = np.array([score.values[prompt] for prompt in prompts])
    spread = _centered(values, _weights(score, prompts), _strata(score.strata, prompts))
    low, high = _interval(values, spread, bounds or NO_BOUNDS)
    return Level(value=mean, low=low, high=high, prompts=len(prompts))


def paired(tuned: Score, base: Score, point: float, seed: int) -> PairedScore | None:
    """Return the difference of two models over their common prompts; None if there is none.

    `seed` determines the sign flips; `point` is one point in the units of the values.
    """
    prompts = sorted(tuned.values.keys() & base.values.keys())
    if not prompts:
        return None
    changes = np.array([tuned.values[prompt] - base.values[prompt] for prompt in prompts])
    weights = _weights(tuned, prompts)
    spread = _centered(changes, weights, _strata(tuned.strata, prompts))
    low, high = _interval(changes, spread, NO_BOUNDS)
    signs = sign_test(torch.from_numpy(changes), 0.0)
    detectable, needed = _power(spread, point)
    return PairedScore(
        value=float((weights * changes).mean()),
        low=low,
        high=high,
        p=sign_flip_p(torch.from_numpy(weights * changes), seed),
        sign_test=SignTestResult(won=signs.won, lost=signs.lost, tied=signs.tied, p=signs.p),
        detectable=detectable,
        prompts_needed=needed,
        prompts=len(prompts),
    )


def _power(spread: np.ndarray, point: float) -> tuple[float | None, tuple[PromptsNeeded, ...]]:
    """Return the detectable difference, and the prompts needed for others; unknown without variation."""
    if np.ptp(spread) <= EQUAL:
        return None, ()
    changes = torch.from_numpy(spread)
    needed = [(points, prompts_needed(changes, points * point)) for points in PLANNED_POINTS]
    planned = tuple(PromptsNeeded(points=points, prompts=prompts) for points, prompts in needed)
    return detectable_difference(changes), planned


def _weights(score: Score, prompts: Sequence[int]) -> np.ndarray:
    """Weights [P] with mean 1."""
    weights = np.array([score.weight(prompt) for prompt in prompts])
    return weights / weights.mean()


def _strata(strata: Mapping[int, str], prompts: Sequence[int]) -> list[str]:
    return [strata.get(prompt, "") for prompt in prompts]


def _centered(values: np.ndarray, weights: np.ndarray, strata: Sequence[str]) -> np.ndarray:
    """Values [P] with the weighted mean of `values`, and the variance that its interval follows from."""
    groups, members = np.unique(strata, return_inverse=True)
    totals = np.bincount(members, weights, len(groups))
    means = np.bincount(members, weights * values, len(groups)) / totals
    return (weights * values).mean() + weights * (values - means[members])


def _interval(
    values: np.ndarray, spread: np.ndarray, bounds: tuple[float, float]
) -> tuple[float | None, float | None]:
    """The 95% interval of the mean of `spread`, within the bounds of `values`; None for infinite limits.

    Without any variance within the strata, it follows from the values as if they were one stratum.
    """
    if values.min() < bounds[0] or values.max() > bounds[1]:
        raise ValueError(f"values of a score must be between {bounds[0]:g} and {bounds[1]:g}")
    if np.ptp(spread) <= EQUAL:
        low, high = mean_interval(torch.from_numpy(values), bounds)
    else:
        low, high = mean_interval(torch.from_numpy(spread))
        low, high = max(bounds[0], low), min(bounds[1], high)
    return (low if math.isfinite(low) else None), (high if math.isfinite(high) else None)
