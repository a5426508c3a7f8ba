"""How often a tuned model beats the base model, and how sure that is (App. B.2).

Notation:
    candidate, base     raw scores of the images of two models by one reward
    values              one number a prompt, as the win-rates of `win_rate`
    P, K, K'            prompts; images of a prompt from either model
"""

import math

import torch
from torch import Tensor

from .calibration import Threshold
from .checks import check_finite, check_same_dtype, check_same_shape, check_samples

_DRAWS_AT_ONCE = 4_000_000  # bounds the memory of the bootstrap: 8 bytes each, twice


def win_rate(candidate: Tensor, base: Tensor) -> Tensor:
    """App. B.2: the share of the K x K' comparisons of a prompt that the candidate wins.

    Ties count half. Swapping the models gives one minus the win-rate.

    Args:
        candidate: `[P, K]`, K >= 1, float32 or float64.
        base: `[P, K']`, K' >= 1, of the same dtype.

    Returns:
        `[P]` in [0, 1], of the dtype of the scores.

    Raises:
        ValueError: for non-finite scores (with the index) or shapes or dtypes that differ.
    """
    _check_scores(candidate, base)
    if candidate.shape[:-1] != base.shape[:-1]:
        raise ValueError(
            f"candidate {list(candidate.shape)} and base {list(base.shape)} must be [P, K] and "
            "[P, K'] with the same P"
        )
    wins = candidate.new_zeros(candidate.shape[:-1])
    for k in range(base.shape[-1]):  # counts of halves: exact
        wins += Threshold()(candidate, base[..., k : k + 1]).sum(dim=-1)
    return wins / (candidate.shape[-1] * base.shape[-1])


def same_seed_win_rate(candidate: Tensor, base: Tensor) -> Tensor:
    """The share of a prompt's K images that beat the other model's image from the same noise.

    Ties count half. Only images that share their noise meet, so that what the noise decides is the
    same on both sides; `win_rate` lets every image meet every other.

    Args:
        candidate: `[P, K]`, K >= 1, float32 or float64.
        base: `[P, K]`, of the same dtype.

    Returns:
        `[P]` in [0, 1], of the dtype of the scores.

    Raises:
        ValueError: for non-finite scores (with the index) or shapes or dtypes that differ.
    """
    _check_scores(candidate, base)
    check_same_shape(candidate=candidate, base=base)
    return Threshold()(candidate, base).mean(dim=-1)


def bootstrap_interval(
    values: Tensor, seed: int, confidence: float = 0.95, resamples: int = 10_000
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean, drawn over prompts.

    Args:
        values: `[P]`, float32 or float64, P >= 1.
        seed: decides the resamples; the same seed and values give the same interval.
        confidence: in (0, 1), the share of resampled means inside the interval.
        resamples: how many; at least 1.

    Returns:
        (low, high), in the units of `values`.

    Raises:
        ValueError: for values that are not finite or not `[P]`, or settings out of range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    means = resampled_means(values, seed, resamples)
    tail = (1 - confidence) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def standard_error(values: Tensor) -> float:
    """The standard error of the mean over prompts, `std / sqrt(P)` with P - 1 in the variance.

    Args:
        values: `[P]`, float32 or float64, P >= 2.

    Raises:
        ValueError: for values that are not finite, not `[P]`, or fewer than two.
    """
    check_values(values, at_least=2)
    return values.detach().double().std().item() / math.sqrt(len(values))


def resampled_means(values: Tensor, seed: int, resamples: int) -> Tensor:
    """The means of bootstrap samples: P of the `values` [P], drawn with replacement.

    Returns:
        `[resamples]`, float64, on the CPU; equal for equal values and seed.

    Raises:
        ValueError: for values that are not finite or not `[P]`, or no resample.
    """
    check_values(values, at_least=1)
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    sample = values.detach().cpu().double()
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, _DRAWS_AT_ONCE // len(sample))
    means = []
    for done in range(0, resamples, at_once):
        shape = (min(at_once, resamples - done), len(sample))
        means.append(sample[torch.randint(len(sample), shape, generator=generator)].mean(dim=1))
    return torch.cat(means)


def check_values(values: Tensor, at_least: int) -> None:
    """Refuse anything but `at_least` finite values, one a prompt."""
    check_finite("values", values)
    if values.ndim != 1 or len(values) < at_least:
        raise ValueError(f"values must be [P] with P >= {at_least}, got {list(values.shape)}")


def _check_scores(candidate: Tensor, base: Tensor) -> None:
    for name, scores in (("candidate", candidate), ("base", base)):
        check_finite(name, scores)
        check_samples(name, scores, at_least=1)
    check_same_dtype(candidate=candidate, base=base)
