"""Turn the raw scores of one reward into calibrated rewards, which are expected win-rates (Sec. 4.2).

Notation (name here -> paper):
    first, second       -> s(x, c), s(x', c)    raw scores of two samples of one prompt
    comparison(a, b)    -> P(x > x' | c)        probability that the first sample wins
    calibrate(...)      -> R_ca(x, c)           mean probability of winning
    P, N, M             -> prompts; samples of a prompt; samples of its reference pool
    #S                  -> shapes that broadcast
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import (
    check_everywhere,
    check_finite,
    check_positive,
    check_same_dtype,
    check_samples,
    naming,
)
from .chunks import prompt_chunks

Comparison = Callable[[Tensor, Tensor], Tensor]
"""Takes two score tensors that broadcast and returns the probabilities in [0, 1] that the first wins.

It must not fall as the first score grows, must be 1/2 for equal scores, and
`comparison(a, b) + comparison(b, a)` must be 1.
"""


@dataclass(frozen=True)
class BradleyTerry:
    """Compare scores on a log-odds scale: `P = sigmoid((first - second) / temperature)` (Eq. 2).

    This is a fixed map of two scores, not the loss of the same name.

    Args:
        temperature: above 0, in the units of the scores; lower values make results more decisive.

    Raises:
        ValueError: at construction, if the temperature is not positive and finite; when called, if
            scores are not finite or their dtype cannot represent the temperature.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)

    def __call__(self, first: Float[Tensor, "*#S"], second: Float[Tensor, "*#S"]) -> Float[Tensor, "*#S"]:
        _check_comparable(first, second)
        _check_held("temperature", self.temperature, first.dtype)
        return torch.sigmoid((first - second) / self.temperature)


@dataclass(frozen=True)
class PowerRatio:
    """Compare scores >= 0: `P = first^exponent / (first^exponent + second^exponent)` (Eq. 28).

    Meant for probabilities such as VQAScore. 0 against 0 is 1/2, and 0 against a positive score is 0.

    Args:
        exponent: above 0; higher values make results more decisive. The paper uses 1.

    Raises:
        ValueError: at construction, if the exponent is not positive and finite; when called, if a
            score is negative or not finite (names its index) or their dtype cannot represent the
            exponent.
    """

    exponent: float = 1.0

    def __post_init__(self) -> None:
        check_positive("exponent", self.exponent)

    def __call__(self, first: Float[Tensor, "*#S"], second: Float[Tensor, "*#S"]) -> Float[Tensor, "*#S"]:
        _check_comparable(first, second)
        _check_held("exponent", self.exponent, first.dtype)
        for name, scores in (("first", first), ("second", second)):
            check_everywhere(name, scores, scores >= 0, "at least 0 for PowerRatio")
        # Logarithms neither underflow for 1e-300 nor overflow for a large exponent. log 0 - log 0 is
        # NaN, so equal scores are handled separately.
        log_odds = self.exponent * (first.log() - second.log())
        return torch.sigmoid(log_odds.masked_fill(first == second, 0.0))


@dataclass(frozen=True)
class Threshold:
    """Count a win 1, a tie 1/2 and a loss 0: the limit of `BradleyTerry` as temperature -> 0.

    Raises:
        ValueError: when called, if scores are not finite.
    """

    def __call__(self, first: Float[Tensor, "*#S"], second: Float[Tensor, "*#S"]) -> Float[Tensor, "*#S"]:
        _check_comparable(first, second)
        return ((first > second).to(first.dtype) + (first >= second).to(first.dtype)) / 2


def calibrate(
    scores: Float[Tensor, "*P N"], comparison: Comparison, reference: Float[Tensor, "*P M"] | None = None
) -> Float[Tensor, "*P N"]:
    """Compute calibrated rewards: every sample's mean probability of winning (Eq. 7).

    Without a reference, a sample is compared with the other N - 1 samples of its prompt, and the N
    rewards average 1/2. With a reference, it is compared with all M samples of the prompt's reference
    pool. Equal scores get exactly equal rewards, a higher score never gets a lower reward, and the
    order of the samples does not matter. The function needs little memory beyond its result.

    Args:
        scores: raw scores of one reward, float32 or float64, N >= 2 (N >= 1 with a reference).
        comparison: turns two scores into a probability of winning.
        reference: scores of the reference pool by the same reward, of the same dtype, M >= 1.

    Returns:
        In [0, 1], with the dtype and device of `scores`.

    Raises:
        ValueError: if a score is not finite or the comparison rejects it (names the index), if there
            are too few samples, or if shapes or dtypes do not match.
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
    rows = prompt_chunks(scores, 1)
    if reference is None:
        rewards = [_calibrate_rows(row, comparison, None) for row in rows]
    else:
        pools = prompt_chunks(reference, 1)
        rewards = [_calibrate_rows(row, comparison, pool) for row, pool in zip(rows, pools, strict=True)]
    return torch.cat(rewards).reshape(scores.shape)


def _calibrate_rows(
    scores: Float[Tensor, "P N"], comparison: Comparison, pool: Float[Tensor, "P M"] | None
) -> Float[Tensor, "P N"]:
    """Compute Eq. 7 against a pool, or among the samples themselves if it is None."""
    ascending, order = scores.contiguous().sort(dim=-1)
    if pool is None:
        reward = _mean_win_among(ascending, comparison)
    else:
        reward = _mean_win_against(ascending, pool.sort(dim=-1).values, comparison)
    # The last bit of a vectorized exponential depends on its position in memory. That would break
    # ties, and with them dominance. So equal scores share the reward of the first one, and rounding
    # must not reverse an order.
    first_equal = torch.searchsorted(ascending, ascending)
    reward = reward.gather(-1, first_equal).cummax(dim=-1).values
    return torch.zeros_like(reward).scatter(-1, order, reward)


def _mean_win_among(ascending: Float[Tensor, "P N"], comparison: Comparison) -> Float[Tensor, "P N"]:
    """The mean over the other N - 1 samples; sorting makes the sums of equal scores alike."""
    samples = ascending.shape[-1]
    rank = torch.arange(samples, device=ascending.device)
    wins = torch.zeros_like(ascending)
    for k in range(samples - 1):  # the k-th opponent of every sample, which skips the sample itself
        opponent = torch.where(rank > k, ascending[..., k : k + 1], ascending[..., k + 1 : k + 2])
        wins += comparison(ascending, opponent)
    return wins / (samples - 1)


def _mean_win_against(
    scores: Float[Tensor, "P N"], pool: Float[Tensor, "P M"], comparison: Comparison
) -> Float[Tensor, "P N"]:
    """The mean over the M samples of the pool."""
    wins = torch.zeros_like(scores)
    for k in range(pool.shape[-1]):
        wins += comparison(scores, pool[..., k : k + 1])
    return wins / pool.shape[-1]


def _check_pool(name: str, scores: Float[Tensor, "*P N"], comparison: Comparison, at_least: int) -> None:
    check_finite(name, scores)
    check_samples(name, scores, at_least)
    with naming(name):
        comparison(scores, scores)  # before sorting, so that an error names the index of the score


def _check_comparable(first: Float[Tensor, "*first"], second: Float[Tensor, "*second"]) -> None:
    check_finite("first", first)
    check_finite("second", second)
    check_same_dtype(first=first, second=second)
    trailing = zip(reversed(first.shape), reversed(second.shape), strict=False)
    if not all(a == b or 1 in (a, b) for a, b in trailing):
        raise ValueError(f"first {list(first.shape)} and second {list(second.shape)} do not broadcast")


def _check_held(name: str, value: float, dtype: torch.dtype) -> None:
    """Raise `ValueError` for a constant that becomes 0 or infinite in the precision of the scores."""
    limits = torch.finfo(dtype)
    if not limits.tiny <= value <= limits.max:
        raise ValueError(f"{name} {value} is out of range for {dtype}: change it or use float64 scores")
