"""Tests of whether two models differ by more than chance, and the number of prompts this takes.

Prompts are the unit throughout, because the images of one prompt are not independent.

Notation:
    values        one number per prompt, such as win-rates from `win_rate` or differences of scores
    P             prompts
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float
from torch import Tensor

from .checks import check_positive, check_same_shape
from .winrate import check_values, mean_interval, standard_error

FLIPS = 9999
"""Number of random sign flips, if there are more possible ones."""

_FLIPS_AT_ONCE = 1000


@dataclass(frozen=True)
class SignTest:
    """The prompts that a model won, lost and tied, and the p-value of such an uneven split."""

    won: int
    lost: int
    tied: int
    p: float
    """two-sided, in (0, 1]"""


@dataclass(frozen=True)
class PairedDifference:
    """A mean difference with its 95% interval and p-value."""

    value: float
    low: float
    high: float
    p: float
    """two-sided, in (0, 1]"""


def sign_test(values: Float[Tensor, " P"], neutral: float) -> SignTest:
    """Run the exact sign test of whether prompts are won and lost with equal probability.

    Ties are left out. The test assumes nothing about the distribution and ignores the size of a win.

    Args:
        values: float32 or float64, P >= 1; a prompt is won above `neutral`.
        neutral: 1/2 for win-rates, 0 for differences.

    Raises:
        ValueError: if values are not finite or not one-dimensional.
    """
    from scipy.stats import binomtest

    check_values(values, at_least=1)
    won, lost = int((values > neutral).sum()), int((values < neutral).sum())
    p = float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
    return SignTest(won, lost, len(values) - won - lost, p)


def paired_difference(
    candidate: Float[Tensor, " P"], base: Float[Tensor, " P"], seed: int
) -> PairedDifference:
    """Compute the mean difference of two models over the same prompts.

    The interval is Student's t interval of the differences, infinite if they are all equal. The p-value is
    `sign_flip_p`.

    Args:
        candidate: one number per prompt, float32 or float64, P >= 1.
        base: the same for the other model, with the prompts in the same order.
        seed: determines the sign flips.

    Raises:
        ValueError: if values are not finite or not one-dimensional, or shapes differ.
    """
    check_same_shape(candidate=candidate, base=base)
    differences = candidate.detach().double() - base.detach().double()
    low, high = mean_interval(differences)
    return PairedDifference(differences.mean().item(), low, high, sign_flip_p(differences, seed))


def sign_flip_p(differences: Float[Tensor, " P"], seed: int) -> float:
    """Compute the two-sided p-value of the mean of differences under random sign flips.

    If the models were equal, every difference would have either sign with equal probability. Exact if there
    are at most `FLIPS` ways to flip the signs. Otherwise the observed signs count as one of the flips, so
    that p is never 0 (Phipson and Smyth, 2010).

    Args:
        differences: one number per prompt, float32 or float64, P >= 1.
        seed: determines the random flips.

    Raises:
        ValueError: if values are not finite or not one-dimensional.
    """
    check_values(differences, at_least=1)
    values = differences.detach().cpu().double().numpy()
    if not values.any():
        return 1.0
    exact = 2 ** len(values) <= FLIPS
    mean = values.mean()
    rounding = 100 * np.finfo(np.float64).eps * abs(mean)
    above = below = flips = 0 if exact else 1
    for signs in _all_signs(len(values)) if exact else _random_signs(len(values), seed):
        means = np.multiply(signs.T, values[:, None], order="C").mean(axis=0)
        above += int(np.count_nonzero(means >= mean - rounding))
        below += int(np.count_nonzero(means <= mean + rounding))
        flips += len(signs)
    return min(1.0, 2 * min(above, below) / flips)


def prompts_needed(
    values: Float[Tensor, " P"], difference: float, power: float = 0.8, level: float = 0.05
) -> int:
    """Estimate the number of prompts needed to detect a mean at `difference` from the neutral one.

    A two-sided test at `level` then detects it with probability `power`, if prompts vary as `values` do
    and their mean is about normal: `((z(1 - level/2) + z(power)) · std / difference)²`.

    Args:
        values: from a first evaluation, float32 or float64, P >= 2.
        difference: above 0, in the units of `values`; 0.01 is one percentage point of a win-rate.
        power: in [1/2, 1).
        level: in (0, 1).

    Returns:
        At least 2.

    Raises:
        ValueError: if values are not finite or fewer than two, or a setting is out of range.
    """
    check_positive("difference", difference)
    detectable = detectable_difference(values, power, level)
    return max(2, math.ceil(len(values) * (detectable / difference) ** 2))


def detectable_difference(values: Float[Tensor, " P"], power: float = 0.8, level: float = 0.05) -> float:
    """Return the smallest difference that P prompts detect, in the sense of `prompts_needed`."""
    return detectable_by_error(standard_error(values), power, level)


def detectable_by_error(error: float, power: float = 0.8, level: float = 0.05) -> float:
    """Return the smallest difference that a mean with the standard error `error` detects.

    `(z(1 - level/2) + z(power)) · error`, in the sense of `prompts_needed`.

    Raises:
        ValueError: if a setting is out of range.
    """
    for name, share, least in (("power", power, 0.5), ("level", level, 0.0)):
        if not least <= share < 1 or share == 0:
            raise ValueError(f"{name} must be between {least:g} and 1, got {share}")
    normal = NormalDist()
    return (normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)) * error


def _all_signs(prompts: int) -> Iterator[np.ndarray]:
    """All sign patterns [2^P, P]."""
    yield np.array(list(itertools.product((1.0, -1.0), repeat=prompts)))


def _random_signs(prompts: int, seed: int) -> Iterator[np.ndarray]:
    """`FLIPS` sign patterns [flips, P], drawn as in scipy's `permutation_test`, which would take minutes."""
    rng = np.random.default_rng(seed)
    for done in range(0, FLIPS, _FLIPS_AT_ONCE):
        shape = (min(_FLIPS_AT_ONCE, FLIPS - done), prompts)
        yield np.where(rng.integers(0, 2**32, shape, dtype=np.uint32) & 1, 1.0, -1.0)
