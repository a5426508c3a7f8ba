"""From the raw scores of one reward to calibrated rewards: expected win-rates (Sec. 4.2).

Notation (name here -> paper):
    first, second       -> s(x, c), s(x', c)    raw scores of two samples of one prompt
    comparison(a, b)    -> P(x > x' | c)        probability that the first sample wins
    calibrate(...)      -> R_ca(x, c)           mean probability of winning
    N, M                -> samples of a prompt; samples of its reference pool
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import (
    check_everywhere,
    check_finite,
    check_positive,
    check_same_dtype,
    check_samples,
    naming,
)

Comparison = Callable[[Tensor, Tensor], Tensor]
"""Two score tensors that broadcast -> the probabilities in [0, 1] that the first wins.

It must not fall as the first score grows, must give 1/2 for equal scores, and
`comparison(a, b) + comparison(b, a)` must be 1.
"""


_PROMPTS_AT_ONCE = 4096  # bounds the memory, and what fits the processor's caches is faster


@dataclass(frozen=True)
class BradleyTerry:
    """Eq. 2: `P = sigmoid((first - second) / temperature)`, for scores on a log-odds scale.

    Not to be confused with the loss of the same name: this is a fixed map of given scores.

    Args:
        temperature: above 0, in the units of the scores; the smaller, the more decided.

    Raises:
        ValueError: at construction for a temperature that is not positive and finite; when
            called, for scores that are not finite or a temperature their dtype cannot hold.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        _check_comparable(first, second)
        _check_held("temperature", self.temperature, first.dtype)
        return torch.sigmoid((first - second) / self.temperature)


@dataclass(frozen=True)
class PowerRatio:
    """Eq. 28: `P = first^exponent / (first^exponent + second^exponent)`, for scores >= 0.

    Meant for probabilities such as VQAScore. 0 against 0 is 1/2, 0 against a positive score 0.

    Args:
        exponent: above 0; the larger, the more decided. The paper uses 1.

    Raises:
        ValueError: at construction for an exponent that is not positive and finite; when
            called, for a negative or non-finite score (with its index) or an exponent
            their dtype cannot hold.
    """

    exponent: float = 1.0

    def __post_init__(self) -> None:
        check_positive("exponent", self.exponent)

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        _check_comparable(first, second)
        _check_held("exponent", self.exponent, first.dtype)
        for name, scores in (("first", first), ("second", second)):
            check_everywhere(name, scores, scores >= 0, "at least 0 for PowerRatio")
        # In logarithms neither 1e-300 nor a large exponent under- or overflows; log 0 - log 0
        # is no number, so equal scores are told apart beforehand.
        log_odds = self.exponent * (first.log() - second.log())
        return torch.sigmoid(log_odds.masked_fill(first == second, 0.0))


@dataclass(frozen=True)
class Threshold:
    """A win counts 1, a tie 1/2, a loss 0: the limit of `BradleyTerry` as temperature -> 0.

    Raises:
        ValueError: when called, for scores that are not finite.
    """

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        _check_comparable(first, second)
        return ((first > second).to(first.dtype) + (first >= second).to(first.dtype)) / 2


def calibrate(scores: Tensor, comparison: Comparison, reference: Tensor | None = None) -> Tensor:
    """Eq. 7: the calibrated reward, each sample's mean probability of winning.

    Without a reference a sample meets the N - 1 others of its prompt; with one, all M samples
    of the prompt's reference pool. Equal scores get equal rewards to the last bit, a higher
    score never a lower reward, and the order in which samples are given does not matter.
    Without a reference the N rewards average 1/2. Beyond the result little memory is needed.

    Args:
        scores: `[..., N]`, raw scores of one reward, float32 or float64, N >= 2 (N >= 1 with
            a reference).
        comparison: how two scores become a probability of winning.
        reference: `[..., M]`, scores of the reference pool by the same reward, M >= 1, with
            the leading dimensions and dtype of `scores`.

    Returns:
        `[..., N]` in [0, 1], in the dtype and on the device of `scores`.

    Raises:
        ValueError: for a non-finite score, one the comparison refuses (both with the index),
            too few samples, or shapes or dtypes that do not match.
    """
    _check_pool("scores", scores, comparison, at_least=2 if reference is None else 1)
    if reference is not None:
        _check_pool("reference", reference, comparison, at_least=1)
        check_same_dtype(scores=scores, reference=reference)
        if reference.shape[:-1] != scores.shape[:-1]:
            raise ValueError(
                f"scores {list(scores.shape)} and reference {list(reference.shape)} must agree in "
                "all dimensions but the last"
            )
    rows = torch.split(scores.reshape(-1, scores.shape[-1]), _PROMPTS_AT_ONCE)
    if reference is None:
        rewards = [_calibrate_rows(row, comparison, None) for row in rows]
    else:
        pools = torch.split(reference.reshape(-1, reference.shape[-1]), _PROMPTS_AT_ONCE)
        rewards = [_calibrate_rows(row, comparison, pool) for row, pool in zip(rows, pools, strict=True)]
    return torch.cat(rewards).reshape(scores.shape)


def _calibrate_rows(scores: Tensor, comparison: Comparison, pool: Tensor | None) -> Tensor:
    """Eq. 7 for `[P, N]` scores, against `[P, M]` ones or, when None, among themselves."""
    ascending, order = scores.contiguous().sort(dim=-1)
    if pool is None:
        reward = _mean_win_among(ascending, comparison)
    else:
        reward = _mean_win_against(ascending, pool.sort(dim=-1).values, comparison)
    # Vectorised exponentials differ in their last bit with the position in memory. That would
    # break ties, and with them dominance: equal scores share the first one's reward, and
    # rounding may not reverse an order.
    first_equal = torch.searchsorted(ascending, ascending)
    reward = reward.gather(-1, first_equal).cummax(dim=-1).values
    return torch.zeros_like(reward).scatter(-1, order, reward)


def _mean_win_among(ascending: Tensor, comparison: Comparison) -> Tensor:
    """Mean over the N - 1 others; the samples ascend, so that sums are alike for equal scores."""
    samples = ascending.shape[-1]
    rank = torch.arange(samples, device=ascending.device)
    wins = torch.zeros_like(ascending)
    for k in range(samples - 1):  # the k-th opponent of a sample, itself left out
        opponent = torch.where(rank > k, ascending[..., k : k + 1], ascending[..., k + 1 : k + 2])
        wins += comparison(ascending, opponent)
    return wins / (samples - 1)


def _mean_win_against(scores: Tensor, pool: Tensor, comparison: Comparison) -> Tensor:
    """Mean over the M samples of the pool."""
    wins = torch.zeros_like(scores)
    for k in range(pool.shape[-1]):
        wins += comparison(scores, pool[..., k : k + 1])
    return wins / pool.shape[-1]


def _check_pool(name: str, scores: Tensor, comparison: Comparison, at_least: int) -> None:
    check_finite(name, scores)
    check_samples(name, scores, at_least)
    with naming(name):
        comparison(scores, scores)  # before sorting loses the index of a score it refuses


def _check_comparable(first: Tensor, second: Tensor) -> None:
    check_finite("first", first)
    check_finite("second", second)
    check_same_dtype(first=first, second=second)
    trailing = zip(reversed(first.shape), reversed(second.shape), strict=False)
    if not all(a == b or 1 in (a, b) for a, b in trailing):
        raise ValueError(f"first {list(first.shape)} and second {list(second.shape)} do not broadcast")


def _check_held(name: str, value: float, dtype: torch.dtype) -> None:
    """Refuse a constant that becomes 0 or infinite in the scores' precision."""
    limits = torch.finfo(dtype)
    if not limits.tiny <= value <= limits.max:
        raise ValueError(f"{name} {value} is beyond {dtype}: use another {name} or float64 scores")
