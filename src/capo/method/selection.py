"""Select the chosen and the rejected samples of a prompt (Sec. 4.3).

Notation (name here -> paper):
    rewards             -> (R_ca^(1), ..., R_ca^(L))    calibrated rewards [..., N, L]
    combined            -> R̄_ca                         their mean [..., N], Eq. 8's reward
    chosen, rejected    -> X+, X-                       boolean masks over the N samples
    P, N, L             -> prompts, samples of a prompt, rewards

The masks are sets, from which a training step draws one pair. Both masks are empty for a prompt that
yields no pair.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .checks import check_everywhere, check_finite, check_same_shape, check_samples
from .chunks import prompt_chunks


class Selection(NamedTuple):
    """The chosen and the rejected samples of every prompt, as two disjoint masks."""

    chosen: Bool[Tensor, "*P N"]
    rejected: Bool[Tensor, "*P N"]


def combine(
    rewards: Float[Tensor, "*P N L"], weights: Float[Tensor, " L"] | None = None
) -> Float[Tensor, "*P N"]:
    """Compute the weighted mean over the rewards, whose difference is CaPO's target (Sec. 4.3).

    Args:
        rewards: float32 or float64.
        weights: at least 0 and not all 0; only their ratios matter. Uniform if None.

    Returns:
        The combined reward; samples with equal rewards get exactly equal values.

    Raises:
        ValueError: if rewards are not finite (names the index) or the weights are invalid.
    """
    _check_rewards(rewards, at_least=1)
    count = rewards.shape[-1]
    if weights is None:
        weights = torch.ones(count)
    if weights.shape != (count,):
        raise ValueError(f"weights {list(weights.shape)} must be one number per reward, [{count}]")
    check_everywhere("weights", weights, torch.isfinite(weights) & (weights >= 0), "finite and >= 0")
    shares = weights.tolist()
    if math.fsum(shares) <= 0:
        raise ValueError("weights are all 0: at least one must be positive")
    combined = torch.zeros_like(rewards[..., 0])
    for column, share in zip(rewards.unbind(-1), shares, strict=True):
        combined = combined + column * (share / math.fsum(shares))
    return combined


def upper_frontier(rewards: Float[Tensor, "*P N L"]) -> Bool[Tensor, "*P N"]:
    """Return the samples that no other sample of their prompt dominates (Sec. 4.3).

    One sample dominates another if it is at least as good by every reward and better by at least one.
    (The paper prints only the first half, by which identical samples dominate each other.)

    Args:
        rewards: float32 or float64; raw scores give the same frontier.

    Returns:
        A mask with at least one sample of every prompt.

    Raises:
        ValueError: if rewards are not finite (names the index) or lack a dimension.
    """
    _check_rewards(rewards, at_least=1)
    return _undominated(rewards)


def lower_frontier(rewards: Float[Tensor, "*P N L"]) -> Bool[Tensor, "*P N"]:
    """Return the samples that dominate no other sample of their prompt (Sec. 4.3).

    Arguments, result and errors as in `upper_frontier`.
    """
    _check_rewards(rewards, at_least=1)
    return _undominated(-rewards)


def select_frontier(rewards: Float[Tensor, "*P N L"]) -> Selection:
    """Select by frontier-based rejection sampling (FRS, Sec. 4.3): X+ = U \\ D and X- = D.

    U and D are the upper and the lower frontier; a sample on both stays in D only. A prompt in which
    no sample dominates another, for example because all are identical, yields no pair. For L = 1 this
    is best-worst with all ties included.

    Args:
        rewards: float32 or float64, N >= 2.

    Raises:
        ValueError: if rewards are not finite (names the index), N < 2, or a dimension is missing.
    """
    _check_rewards(rewards, at_least=2)
    lower = _undominated(-rewards)
    chosen = _undominated(rewards) & ~lower
    return Selection(chosen, lower & chosen.any(dim=-1, keepdim=True))


def select_sum(rewards: Float[Tensor, "*P N L"], weights: Float[Tensor, " L"] | None = None) -> Selection:
    """Select the best and the worst sample by the (weighted) mean of the rewards: SUM (Sec. 5.2).

    Args:
        rewards: float32 or float64, N >= 2.
        weights: as in `combine`.

    Raises:
        ValueError: as `combine` and `select_best_worst`.
    """
    return select_best_worst(combine(rewards, weights))


def select_best_worst(reward: Float[Tensor, "*P N"]) -> Selection:
    """Select the best and the worst of N samples (Fig. 2c), the first of tied ones.

    A prompt whose samples all tie yields no pair, because any labels would be arbitrary.

    Args:
        reward: float32 or float64, N >= 2.

    Raises:
        ValueError: if rewards are not finite (names the index) or N < 2.
    """
    check_finite("reward", reward)
    check_samples("reward", reward, at_least=2)
    best = reward.amax(dim=-1, keepdim=True)
    worst = reward.amin(dim=-1, keepdim=True)
    distinct = best > worst
    return Selection(_first(reward == best) & distinct, _first(reward == worst) & distinct)


def allowed_pairs(
    chosen: Bool[Tensor, " N"],
    rejected: Bool[Tensor, " N"],
    combined: Float[Tensor, " N"],
    min_margin: float | None,
) -> Int[Tensor, "pairs 2"]:
    """Return every (chosen, rejected) pair of one prompt that training may draw.

    Args:
        chosen: X+.
        rejected: X-, disjoint from `chosen`.
        combined: the combined reward; may be NaN for samples in neither set.
        min_margin: keep only pairs whose ΔR exceeds this; None keeps every pair. Objectives that
            ignore ΔR need 0, because they learn pairs with ΔR < 0 in reverse.

    Returns:
        int64 sample indices in lexicographic order; possibly no pair.

    Raises:
        ValueError: if the masks overlap, shapes differ, or a selected sample has no finite combined
            reward.
    """
    check_same_shape(chosen=chosen, rejected=rejected, combined=combined)
    if chosen.ndim != 1:
        raise ValueError(f"chosen must be [N], the samples of one prompt, got {list(chosen.shape)}")
    if chosen.dtype != torch.bool or rejected.dtype != torch.bool:
        raise ValueError(f"chosen and rejected must be bool, got {chosen.dtype}, {rejected.dtype}")
    check_everywhere("chosen", chosen, ~(chosen & rejected), "False where rejected is True")
    unselected = ~(chosen | rejected)
    check_everywhere("combined", combined, combined.isfinite() | unselected, "finite when selected")
    allowed = chosen[:, None] & rejected[None, :]
    if min_margin is not None:
        allowed &= combined[:, None] - combined[None, :] > min_margin
    return allowed.nonzero()


def draw_pair(allowed: Int[Tensor, "pairs 2"], generator: torch.Generator) -> tuple[int, int]:
    """Draw one of the allowed pairs uniformly, as (chosen, rejected) sample indices.

    Raises:
        ValueError: if there is no pair to draw.
    """
    if allowed.ndim != 2 or allowed.shape[-1] != 2 or len(allowed) == 0:
        raise ValueError(f"allowed must be [n, 2] with at least one pair, got {list(allowed.shape)}")
    row = torch.randint(len(allowed), (), generator=generator, device=generator.device)
    chosen, rejected = allowed[int(row)].tolist()
    return chosen, rejected


def _undominated(rewards: Float[Tensor, "*P N L"]) -> Bool[Tensor, "*P N"]:
    """Return the upper frontier without checking the rewards."""
    prompts = prompt_chunks(rewards, 2)
    masks = [_undominated_rows(prompt.movedim(-1, 0).contiguous()) for prompt in prompts]
    return torch.cat(masks).reshape(rewards.shape[:-1])


def _undominated_rows(columns: Float[Tensor, "L P N"]) -> Bool[Tensor, "P N"]:
    """Return the samples that no other sample dominates, from one matrix per reward."""
    dominated = torch.zeros_like(columns[0], dtype=torch.bool)
    for k in range(columns.shape[-1]):
        dominated |= _dominates(columns[..., k : k + 1], columns)
    return ~dominated


def _dominates(first: Float[Tensor, "L P 1"], second: Float[Tensor, "L P N"]) -> Bool[Tensor, "P N"]:
    """Return whether `first` dominates `second`: worse by no reward, and better by at least one."""
    better = worse = torch.zeros((), dtype=torch.bool, device=first.device)
    for a, b in zip(first, second, strict=True):
        better = better | (a > b)
        worse = worse | (a < b)
    return better & ~worse


def _first(mask: Bool[Tensor, "*P N"]) -> Bool[Tensor, "*P N"]:
    """Keep only the first True of every row."""
    return mask & (mask.cumsum(dim=-1) == 1)


def _check_rewards(rewards: Tensor, at_least: int) -> None:
    check_finite("rewards", rewards)
    if rewards.ndim < 2 or rewards.shape[-1] == 0 or rewards.shape[-2] < at_least:
        raise ValueError(
            f"rewards must be [..., N, L] with N >= {at_least} and L >= 1, got {list(rewards.shape)}"
        )
