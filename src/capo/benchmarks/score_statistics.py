"""Intervals and paired comparisons of weighted means over prompts.

A weighted mean is the mean of `w_p · v_p` over P prompts, with weights of mean 1. Prompts of fixed categories
are drawn within them, so only the variation within categories counts (`_spread`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from capo.benchmarks.summary import Score
from capo.method import detectable_by_error, mean_interval, sign_flip_p, sign_test
from capo.reporting.benchmark_schema import Level, PairedScore
from capo.reporting.results_schema import PromptsNeeded, SignTestResult

PLANNED_POINTS = (1, 2, 5)
"""Differences in points for which results say how many prompts they take."""

EQUAL = 1e-12
"""Values that differ by less are equal but for rounding."""

NO_BOUNDS = (-math.inf, math.inf)

CONFIDENCE = 0.95


@dataclass(frozen=True)
class _Spread:
    """The uncertainty of a weighted mean."""

    error: float
    """Standard error."""
    freedom: float
    """Degrees of freedom; 0 without any variance."""


def level(score: Score, bounds: tuple[float, float] | None) -> Level | None:
    """Return the score with its interval; None without any value. `bounds` are those of a single value."""
    prompts = sorted(score.values)
    mean = score.value
    if mean is None:
        return None
    values = np.array([score.values[prompt] for prompt in prompts])
    weights, strata = _weights(score, prompts), _strata(score.strata, prompts)
    low, high = _interval(values, weights, strata, bounds or NO_BOUNDS)
    return Level(value=mean, low=low, high=high, prompts=len(prompts))


def paired(tuned: Score, base: Score, point: float, seed: int) -> PairedScore | None:
    """Return the difference of two models over their common prompts; None if there is none.

    `seed` determines the sign flips; `point` is one point in the units of the values.
    """
    prompts = sorted(tuned.values.keys() & base.values.keys())
    if not prompts:
        return None
    changes = np.array([tuned.values[prompt] - base.values[prompt] for prompt in prompts])
    weights, strata = _weights(tuned, prompts), _strata(tuned.strata, prompts)
    low, high = _interval(changes, weights, strata, NO_BOUNDS)
    signs = sign_test(torch.from_numpy(changes), 0.0)
    detectable, needed = _power(_spread(changes, weights, strata), len(prompts), point)
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


def _power(
    spread: _Spread | None, prompts: int, point: float
) -> tuple[float | None, tuple[PromptsNeeded, ...]]:
    """Return the detectable difference, and the prompts needed for others; unknown without variation.

    Needed prompts have the same shares of categories, so the error shrinks with the root of their number.
    """
    if spread is None or spread.error <= EQUAL:
        return None, ()
    detectable = detectable_by_error(spread.error)
    needed = {points: math.ceil(prompts * (detectable / (points * point)) ** 2) for points in PLANNED_POINTS}
    planned = tuple(PromptsNeeded(points=points, prompts=max(2, n)) for points, n in needed.items())
    return detectable, planned


def _weights(score: Score, prompts: Sequence[int]) -> np.ndarray:
    """Weights [P] with mean 1."""
    weights = np.array([score.weight(prompt) for prompt in prompts])
    return weights / weights.mean()


def _strata(strata: Mapping[int, str], prompts: Sequence[int]) -> list[str]:
    return [strata.get(prompt, "") for prompt in prompts]


def _spread(values: np.ndarray, weights: np.ndarray, strata: Sequence[str]) -> _Spread | None:
    """Return the uncertainty of the mean of `weights · values`, both [P], over stratified prompts.

    The variance of a stratified mean is the sum of `n_c · s_c² / P²` over categories c of n_c prompts, where
    s_c² is the sample variance, with divisor n_c - 1, of `w_p · (v_p - m_c)` around the category's weighted
    mean m_c (Cochran 1977, Sampling Techniques, Sec. 5.4). Its degrees of freedom are those of Satterthwaite
    (1946), Biometrics Bulletin 2:110. A category of one prompt takes the pooled variance of the values in
    the others; None if all have one prompt.
    """
    _, members, sizes = np.unique(strata, return_inverse=True, return_counts=True)
    known = sizes > 1
    if not known.any():
        return None
    freedom = sizes[known] - 1
    means = np.bincount(members, weights * values) / np.bincount(members, weights)
    squares = (values - means[members]) ** 2
    own = sizes[known] * np.bincount(members, weights**2 * squares)[known] / freedom
    pooled = np.bincount(members, squares)[known] / freedom.sum()
    singles = (weights[~known[members]] ** 2).sum()
    variances = (own + singles * pooled) / len(values) ** 2
    total = variances.sum()
    return _Spread(math.sqrt(total), total**2 / (variances**2 / freedom).sum() if total else 0.0)


def _interval(
    values: np.ndarray, weights: np.ndarray, strata: Sequence[str], bounds: tuple[float, float]
) -> tuple[float | None, float | None]:
    """Return the 95% interval of the weighted mean, within the bounds of `values`; None for unknown limits.

    It is Student's t interval. Without any variance within the strata, they count as one stratum; equal
    values have the interval of `mean_interval`.
    """
    if values.min() < bounds[0] or values.max() > bounds[1]:
        raise ValueError(f"values of a score must be between {bounds[0]:g} and {bounds[1]:g}")
    if np.ptp(values) <= EQUAL:
        low, high = mean_interval(torch.full((len(values),), values[0]), bounds)
        return (low if math.isfinite(low) else None), (high if math.isfinite(high) else None)
    spread = _spread(values, weights, strata)
    if spread is not None and spread.error <= EQUAL:
        spread = _spread(values, weights, [""] * len(values))
    return (None, None) if spread is None else _t_interval((weights * values).mean(), spread, bounds)


def _t_interval(mean: float, spread: _Spread, bounds: tuple[float, float]) -> tuple[float, float]:
    from scipy.stats import t as student

    reach = float(student.ppf((1 + CONFIDENCE) / 2, spread.freedom)) * spread.error
    return max(bounds[0], mean - reach), min(bounds[1], mean + reach)
