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


def mean_interval(
    values: Float[Tensor, " P"],
    bounds: tuple[float, float] = (-math.inf, math.inf),
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Compute Student's t interval of the mean over prompts, within `bounds`.

    Equal values have no variance to estimate. Their interval follows from the number of prompts alone: it
    has the means for which P equal values have a probability of at least 1 - confidence, if all other
    prompts were at a bound. Without bounds it is infinite.

    Args:
        values: float32 or float64, P >= 1.
        bounds: the range of a single value, such as (0, 1) for win-rates.
        confidence: the share of repeated experiments whose interval contains the mean, in (0, 1).

    Returns:
        (low, high), in the units of `values`.

    Raises:
        ValueError: if values are not finite, not one-dimensional, or out of bounds, or the confidence is
            out of range.
    """
    from scipy.stats import t as student

    _check_confidence(confidence)
    check_values(values, at_least=1)
    sample = values.detach().cpu().double()
    if sample.min() < bounds[0] or sample.max() > bounds[1]:
        raise ValueError(f"values must be between {bounds[0]:g} and {bounds[1]:g}")
    mean, count = sample.mean().item(), len(sample)
    if (sample == sample[0]).all():
        share = 1 - (1 - confidence) ** (1 / count)
        mean = sample[0].item()
        return mean - share * (mean - bounds[0]), mean + share * (bounds[1] - mean)
    reach = float(student.ppf((1 + confidence) / 2, count - 1)) * standard_error(sample)
    return max(bounds[0], mean - reach), min(bounds[1], mean + reach)


def bootstrap_interval(
    values: Float[Tensor, " P"], seed: int, confidence: float = 0.95, resamples: int = 10_000
) -> tuple[float, float]:
    """Compute the percentile bootstrap interval of the mean, resampling prompts.

    It is too narrow for few prompts: at 8 of them, a 95% interval contains the mean in 88% of experiments.
    `mean_interval` does not have this fault.

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
    _check_confidence(confidence)
    means = _resampled_means(values, seed, resamples)
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


def _resampled_means(values: Float[Tensor, " P"], seed: int, resamples: int) -> Float[Tensor, " resamples"]:
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


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")


def _check_scores(candidate: Tensor, base: Tensor) -> None:
    for name, scores in (("candidate", candidate), ("base", base)):
        check_finite(name, scores)
        check_samples(name, scores, at_least=1)
    check_same_dtype(candidate=candidate, base=base)
