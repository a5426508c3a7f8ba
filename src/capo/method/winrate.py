"""How often a tuned model beats the base model, and the uncertainty of that number (App. B.2).

Notation:
    candidate, base     raw scores of the images of two models by one reward
    values              one number per prompt, such as the win-rates from `win_rate`
    P, K, J             prompts; images of a prompt from the candidate and from the base
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .calibration import Threshold
from .checks import check_finite, check_same_dtype, check_same_shape, check_samples

_DRAWS_AT_ONCE = 4_000_000  # bounds the memory of the bootstrap: two arrays of 8 bytes per draw


def win_rate(candidate: Float[Tensor, "*P K"], base: Float[Tensor, "*P J"]) -> Float[Tensor, "*P"]:
    """Compute the share of the K x J comparisons of a prompt that the candidate wins (App. B.2).

    Ties count half. Swapping the models gives one minus the win-rate.

    Args:
        candidate: float32 or float64, K >= 1.
        base: of the same dtype, J >= 1.

    Returns:
        In [0, 1], with the dtype of the scores.

    Raises:
        ValueError: if scores are not finite (names the index), or shapes or dtypes differ.
    """
    _check_scores(candidate, base)
    if candidate.shape[:-1] != base.shape[:-1]:
        raise ValueError(
            f"candidate {list(candidate.shape)} and base {list(base.shape)} must be [P, K] and "
            "[P, J] with the same P"
        )
    wins = candidate.new_zeros(candidate.shape[:-1])
    for k in range(base.shape[-1]):  # sums of halves are exact
        wins += Threshold()(candidate, base[..., k : k + 1]).sum(dim=-1)
    return wins / (candidate.shape[-1] * base.shape[-1])


def same_seed_win_rate(candidate: Float[Tensor, "*P K"], base: Float[Tensor, "*P K"]) -> Float[Tensor, "*P"]:
    """Compute the share of a prompt's images that beat the other model's image from the same noise.

    Ties count half. Images are compared only if they share their noise, so that its influence is the
    same on both sides. `win_rate` compares all images with each other.

    Args:
        candidate: float32 or float64, K >= 1.
        base: of the same dtype.

    Returns:
        In [0, 1], with the dtype of the scores.

    Raises:
        ValueError: if scores are not finite (names the index), or shapes or dtypes differ.
    """
    _check_scores(candidate, base)
    check_same_shape(candidate=candidate, base=base)
    return Threshold()(candidate, base).mean(dim=-1)


def bootstrap_interval(
    values: Float[Tensor, " P"], seed: int, confidence: float = 0.95, resamples: int = 10_000
) -> tuple[float, float]:
    """Compute the percentile bootstrap interval of the mean, resampling prompts.

    Args:
        values: float32 or float64, P >= 1.
        seed: determines the resamples; the same seed and values give the same interval.
        confidence: the share of resampled means inside the interval, in (0, 1).
        resamples: number of bootstrap samples, at least 1.

    Returns:
        (low, high), in the units of `values`.

    Raises:
        ValueError: if values are not finite or not one-dimensional, or a setting is out of range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    means = resampled_means(values, seed, resamples)
    tail = (1 - confidence) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def standard_error(values: Float[Tensor, " P"]) -> float:
    """Compute the standard error of the mean over prompts: `std / sqrt(P)`, with P - 1 in the variance.

    Args:
        values: float32 or float64, P >= 2.

    Raises:
        ValueError: if values are not finite, not one-dimensional, or fewer than two.
    """
    check_values(values, at_least=2)
    return values.detach().double().std().item() / math.sqrt(len(values))


def resampled_means(values: Float[Tensor, " P"], seed: int, resamples: int) -> Float[Tensor, " resamples"]:
    """Compute the means of bootstrap samples: P of the values, drawn with replacement.

    Returns:
        float64, on the CPU; equal for equal values and seed.

    Raises:
        ValueError: if values are not finite or not one-dimensional, or `resamples` is below 1.
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
    """Raise `ValueError` unless there are `at_least` finite values, one per prompt."""
    check_finite("values", values)
    if values.ndim != 1 or len(values) < at_least:
        raise ValueError(f"values must be [P] with P >= {at_least}, got {list(values.shape)}")


def _check_scores(candidate: Tensor, base: Tensor) -> None:
    for name, scores in (("candidate", candidate), ("base", base)):
        check_finite(name, scores)
        check_samples(name, scores, at_least=1)
    check_same_dtype(candidate=candidate, base=base)
