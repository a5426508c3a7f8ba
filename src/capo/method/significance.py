"""Tests of whether two models differ by more than chance, and the number of prompts this takes.

Prompts are the unit throughout, because the images of one prompt are not independent.

Notation:
    values        one number per prompt, such as win-rates from `win_rate` or differences of scores
    P             prompts
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import check_positive, check_same_shape
from .winrate import check_values, resampled_means, standard_error


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


def paired_bootstrap(
    candidate: Float[Tensor, " P"], base: Float[Tensor, " P"], seed: int, resamples: int = 10_000
) -> PairedDifference:
    """Compute the mean difference of two models over the same prompts, resampling prompts.

    The p-value is the share of resampled means, shifted to have mean 0, that are at least as far from 0
    as the observed difference (Efron & Tibshirani, An Introduction to the Bootstrap, Sec. 16.4).

    Args:
        candidate: one number per prompt, float32 or float64, P >= 1.
        base: the same for the other model, with the prompts in the same order.
        seed: determines the resamples.
        resamples: number of bootstrap samples; p is at least 1 / (resamples + 1).

    Raises:
        ValueError: if values are not finite or not one-dimensional, or shapes differ.
    """
    check_same_shape(candidate=candidate, base=base)
    differences = candidate.detach().double() - base.detach().double()
    means = resampled_means(differences, seed, resamples)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    mean = differences.mean().item()
    # If all differences are equal, rounding must not decide.
    slack = 1e-12 * max(1.0, abs(mean))
    as_far = int(((means - mean).abs() >= abs(mean) - slack).sum())
    return PairedDifference(mean, low, high, (as_far + 1) / (resamples + 1))


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
    for name, share, least in (("power", power, 0.5), ("level", level, 0.0)):
        if not least <= share < 1 or share == 0:
            raise ValueError(f"{name} must be between {least:g} and 1, got {share}")
    normal = NormalDist()
    return (normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)) * standard_error(values)
