"""Is a difference between two models more than chance, and how many prompts does it take to see one?

Prompts are the unit throughout: the images of one prompt are not independent of each other.

Notation:
    values        one number a prompt, as the win-rates of `win_rate` or differences of scores
    P             prompts
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from .checks import check_positive, check_same_shape
from .winrate import check_values, resampled_means, standard_error


@dataclass(frozen=True)
class SignTest:
    """How many prompts a model won, lost and tied, and how often chance would be so uneven."""

    won: int
    lost: int
    tied: int
    p: float
    """two-sided, in (0, 1]"""


@dataclass(frozen=True)
class PairedDifference:
    """A mean difference with its 95% interval, and how often chance would be as large."""

    value: float
    low: float
    high: float
    p: float
    """two-sided, in (0, 1]"""


def sign_test(values: Tensor, neutral: float) -> SignTest:
    """The exact sign test: were prompts won and lost by the toss of a fair coin?

    Ties say nothing and are left out. It asks nothing of the distribution, and nothing of how large
    a win is.

    Args:
        values: `[P]`, float32 or float64, P >= 1; a prompt is won above `neutral`.
        neutral: 1/2 for win-rates, 0 for differences.

    Raises:
        ValueError: for values that are not finite or not `[P]`.
    """
    from scipy.stats import binomtest

    check_values(values, at_least=1)
    won, lost = int((values > neutral).sum()), int((values < neutral).sum())
    p = float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
    return SignTest(won, lost, len(values) - won - lost, p)


def paired_bootstrap(candidate: Tensor, base: Tensor, seed: int, resamples: int = 10_000) -> PairedDifference:
    """The mean difference of two models over the same prompts, resampled over prompts.

    The p-value is the share of resampled means, moved to have mean 0, that are at least as far from
    0 as the difference found (Efron & Tibshirani, An Introduction to the Bootstrap, Sec. 16.4).

    Args:
        candidate: `[P]`, one number a prompt, float32 or float64, P >= 1.
        base: `[P]`, of the same prompts in the same order.
        seed: decides the resamples.
        resamples: how many; p is no smaller than 1 / (resamples + 1).

    Raises:
        ValueError: for values that are not finite or not `[P]`, or shapes that differ.
    """
    check_same_shape(candidate=candidate, base=base)
    differences = candidate.detach().double() - base.detach().double()
    means = resampled_means(differences, seed, resamples)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    mean = differences.mean().item()
    # Rounding must not decide where all differences are equal.
    slack = 1e-12 * max(1.0, abs(mean))
    as_far = int(((means - mean).abs() >= abs(mean) - slack).sum())
    return PairedDifference(mean, low, high, (as_far + 1) / (resamples + 1))


def prompts_needed(values: Tensor, difference: float, power: float = 0.8, level: float = 0.05) -> int:
    """How many prompts it takes to see a mean that lies `difference` from the neutral one.

    Seen means: a two-sided test at `level` finds it with probability `power`, when prompts vary as
    `values` do and their mean is about normal: `((z(1 - level/2) + z(power)) · std / difference)²`.

    Args:
        values: `[P]`, of a first evaluation, float32 or float64, P >= 2.
        difference: in the units of `values`, > 0; 0.01 is a percentage point of a win-rate.
        power: in [1/2, 1).
        level: in (0, 1).

    Returns:
        At least 2.

    Raises:
        ValueError: for values that are not finite, fewer than two, or settings out of range.
    """
    check_positive("difference", difference)
    seen = detectable_difference(values, power, level)
    return max(2, math.ceil(len(values) * (seen / difference) ** 2))


def detectable_difference(values: Tensor, power: float = 0.8, level: float = 0.05) -> float:
    """The smallest difference that as many prompts as there are `values` show, as `prompts_needed`."""
    for name, share, least in (("power", power, 0.5), ("level", level, 0.0)):
        if not least <= share < 1 or share == 0:
            raise ValueError(f"{name} must be between {least:g} and 1, got {share}")
    normal = NormalDist()
    return (normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)) * standard_error(values)
