"""Which samples of a prompt are chosen and which rejected (Sec. 4.3).

Notation (name here -> paper):
    rewards             -> (R_ca^(1), ..., R_ca^(L))    calibrated rewards [..., N, L]
    combined            -> R̄_ca                         their mean [..., N], Eq. 8's reward
    chosen, rejected    -> X+, X-                       boolean masks over the N samples
    N, L                -> samples of a prompt, rewards

Masks say *sets*: a training step draws one pair from them. A prompt that yields no pair has
both masks empty.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .checks import check_everywhere, check_finite, check_same_shape, check_samples

_PROMPTS_AT_ONCE = 4096  # bounds the memory, and what fits the processor's caches is faster


class Selection(NamedTuple):
    """The chosen and the rejected samples of each prompt, two disjoint masks `[..., N]`."""

    chosen: Tensor
    rejected: Tensor


def combine(rewards: Tensor, weights: Tensor | None = None) -> Tensor:
    """The weighted mean over the rewards, the ensemble that CaPO's target compares (Sec. 4.3).

    Args:
        rewards: `[..., N, L]`, float32 or float64.
        weights: `[L]`, at least 0 and not all 0; only their ratios matter. Uniform when None.

    Returns:
        `[..., N]`; samples with equal rewards get equal values to the last bit.

    Raises:
        ValueError: for non-finite rewards (with the index) or unfit weights.
    """
    _check_rewards(rewards, at_least=1)
    count = rewards.shape[-1]
    if weights is None:
        weights = torch.ones(count)
    if weights.shape != (count,):
        raise ValueError(f"weights {list(weights.shape)} must be one number a reward, [{count}]")
    check_everywhere("weights", weights, torch.isfinite(weights) & (weights >= 0), "finite and >= 0")
    shares = weights.tolist()
    if math.fsum(shares) <= 0:
        raise ValueError("weights are all 0: at least one must be positive")
    combined = torch.zeros_like(rewards[..., 0])
    for column, share in zip(rewards.unbind(-1), shares, strict=True):
        combined = combined + column * (share / math.fsum(shares))
    return combined


def upper_frontier(rewards: Tensor) -> Tensor:
    """Sec. 4.3: the samples that no other sample of their prompt dominates.

    One sample dominates another when it is at least as good by every reward and better by at
    least one. (The paper prints only the first half, by which twins dominate each other.)

    Args:
        rewards: `[..., N, L]`, float32 or float64; raw scores give the same frontier.

    Returns:
        bool `[..., N]`; at least one sample of every prompt is on it.

    Raises:
        ValueError: for non-finite rewards (with the index) or a missing dimension.
    """
    _check_rewards(rewards, at_least=1)
    return _undominated(rewards)


def lower_frontier(rewards: Tensor) -> Tensor:
    """Sec. 4.3: the samples that dominate no other sample; `upper_frontier` upside down.

    Arguments, result and errors as in `upper_frontier`.
    """
    _check_rewards(rewards, at_least=1)
    return _undominated(-rewards)


def select_frontier(rewards: Tensor) -> Selection:
    """Frontier-based rejection sampling (FRS, Sec. 4.3): X+ = U \\ D and X- = D.

    U and D are the upper and the lower frontier; a sample on both stays in D alone. Where
    nothing is left to choose (no sample dominates another, identical samples included) the
    prompt yields no pair. For L = 1 this is best-worst with all ties included.

    Args:
        rewards: `[..., N, L]`, N >= 2, float32 or float64.

    Raises:
        ValueError: for non-finite rewards (with the index), N < 2 or a missing dimension.
    """
    _check_rewards(rewards, at_least=2)
    lower = _undominated(-rewards)
    chosen = _undominated(rewards) & ~lower
    return Selection(chosen, lower & chosen.any(dim=-1, keepdim=True))


def select_sum(rewards: Tensor, weights: Tensor | None = None) -> Selection:
    """The baseline SUM (Sec. 5.2): best and worst by the (weighted) mean of the rewards.

    Args:
        rewards: `[..., N, L]`, N >= 2, float32 or float64.
        weights: `[L]`, as in `combine`.

    Raises:
        ValueError: as `combine` and `select_best_worst`.
    """
    return select_best_worst(combine(rewards, weights))


def select_best_worst(reward: Tensor) -> Selection:
    """Best-of-N against worst-of-N (Fig. 2c): one sample each, the first on a tie.

    A prompt whose samples all tie yields no pair: any labels would be arbitrary.

    Args:
        reward: `[..., N]`, N >= 2, float32 or float64.

    Raises:
        ValueError: for non-finite rewards (with the index) or N < 2.
    """
    check_finite("reward", reward)
    check_samples("reward", reward, at_least=2)
    best = reward.amax(dim=-1, keepdim=True)
    worst = reward.amin(dim=-1, keepdim=True)
    distinct = best > worst
    return Selection(_first(reward == best) & distinct, _first(reward == worst) & distinct)


def allowed_pairs(chosen: Tensor, rejected: Tensor, combined: Tensor, min_margin: float | None) -> Tensor:
    """Every (chosen, rejected) pair of one prompt that training may draw.

    Args:
        chosen: bool `[N]`, X+.
        rejected: bool `[N]`, X-, disjoint from `chosen`.
        combined: `[N]`, the combined reward; NaN is fine for samples in neither set.
        min_margin: keep only pairs whose `combined` differs by more than this (DPO and IPO
            need 0, or they learn some pairs the wrong way round). None keeps every pair.

    Returns:
        int64 `[n, 2]`, sample indices in lexicographic order; n may be 0.

    Raises:
        ValueError: for masks that overlap or shapes that differ, or a selected sample without
            a finite combined reward.
    """
    check_same_shape(chosen=chosen, rejected=rejected, combined=combined)
    if chosen.ndim != 1:
        raise ValueError(f"one prompt at a time: chosen must be [N], got {list(chosen.shape)}")
    if chosen.dtype != torch.bool or rejected.dtype != torch.bool:
        raise ValueError(f"chosen and rejected must be bool, got {chosen.dtype}, {rejected.dtype}")
    check_everywhere("chosen", chosen, ~(chosen & rejected), "False where rejected is True")
    unselected = ~(chosen | rejected)
    check_everywhere("combined", combined, combined.isfinite() | unselected, "finite when selected")
    allowed = chosen[:, None] & rejected[None, :]
    if min_margin is not None:
        allowed &= combined[:, None] - combined[None, :] > min_margin
    return allowed.nonzero()


def draw_pair(allowed: Tensor, generator: torch.Generator) -> tuple[int, int]:
    """One of the `allowed` pairs `[n, 2]`, uniformly: (chosen, rejected) sample indices.

    Raises:
        ValueError: when there is no pair to draw.
    """
    if allowed.ndim != 2 or allowed.shape[-1] != 2 or len(allowed) == 0:
        raise ValueError(f"allowed must be [n, 2] with at least one pair, got {list(allowed.shape)}")
    row = torch.randint(len(allowed), (), generator=generator, device=generator.device)
    chosen, rejected = allowed[int(row)].tolist()
    return chosen, rejected


def _undominated(rewards: Tensor) -> Tensor:
    """`upper_frontier` without its checks."""
    prompts = torch.split(rewards.reshape(-1, *rewards.shape[-2:]), _PROMPTS_AT_ONCE)
    masks = [_undominated_rows(prompt.movedim(-1, 0).contiguous()) for prompt in prompts]
    return torch.cat(masks).reshape(rewards.shape[:-1])


def _undominated_rows(columns: Tensor) -> Tensor:
    """The undominated samples, bool `[P, N]`, of the rewards `[L, P, N]`."""
    dominated = torch.zeros_like(columns[0], dtype=torch.bool)
    for k in range(columns.shape[-1]):
        dominated |= _dominates(columns[..., k : k + 1], columns)
    return ~dominated


def _dominates(first: Tensor, second: Tensor) -> Tensor:
    """Whether `first[L, ...]` dominates `second[L, ...]`: nowhere worse and somewhere better."""
    better = worse = torch.zeros((), dtype=torch.bool, device=first.device)
    for a, b in zip(first, second, strict=True):
        better = better | (a > b)
        worse = worse | (a < b)
    return better & ~worse


def _first(mask: Tensor) -> Tensor:
    """`mask` with only its first True of the last dimension left."""
    return mask & (mask.cumsum(dim=-1) == 1)


def _check_rewards(rewards: Tensor, at_least: int) -> None:
    check_finite("rewards", rewards)
    if rewards.ndim < 2 or rewards.shape[-1] == 0 or rewards.shape[-2] < at_least:
        raise ValueError(
            f"rewards must be [..., N, L] with N >= {at_least} and L >= 1, got {list(rewards.shape)}"
        )
