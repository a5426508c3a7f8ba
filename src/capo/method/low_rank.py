"""Soups of LoRA policies: merges the updates ΔW = B A without multiplying them out.

Notation (name here -> LoRA, Hu et al. 2021):
    up, down        -> B [out, r] and A [r, in], with alpha / r folded into B
    update          -> ΔW = B A, the task vector of one module's weight

A soup is linear in the updates, so a rank equal to the sum of theirs represents it exactly. Merging the
B and the A separately would not give the same update. A convolution counts as a matrix with its window
in the input dimension.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import check_everywhere, naming
from .soup import check_settings, checked_weights, linear_shares, slerp_shares


@dataclass(frozen=True)
class LowRank:
    """The update of one module."""

    up: Float[Tensor, "out rank_up *up_window"]
    down: Float[Tensor, "r in *window"]

    @property
    def rank(self) -> int:
        """r, the rank of the update."""
        return self.down.shape[0]


def low_rank_soup(
    policies: Sequence[Mapping[str, LowRank]],
    *,
    interpolation: Literal["slerp", "linear"] = "slerp",
    angle: Literal["tensor", "global"] = "tensor",
    weights: Sequence[float] | None = None,
) -> dict[str, LowRank]:
    """Merge LoRA policies module by module into an exact soup, whose rank is the sum of theirs.

    Multiplied out and added to a base, it equals what `capo.method.soup.soup` makes of the full weights.
    Settings and their errors are the same. `policies` hold updates by module name and must have the same
    modules. Raises `ValueError` naming the module if only some have it, or if updates differ in shape or are
    not finite.
    """
    weights = checked_weights(len(policies), weights)
    check_settings(interpolation, angle)
    for number, policy in enumerate(policies):
        if different := sorted(policy.keys() ^ policies[0].keys()):
            raise ValueError(f"policies 0 and {number} have different modules: only one has {different[0]!r}")
    by_module = {name: [policy[name] for policy in policies] for name in policies[0]}
    for name, updates in by_module.items():
        with naming(f"module {name!r}"):
            _check(updates)
    shares = None
    if interpolation == "linear":
        shares = linear_shares(weights)
    elif angle == "global":
        grams = [_gram(updates) for updates in by_module.values()]
        shares = slerp_shares(torch.tensor(grams, dtype=torch.float64).sum(dim=0).tolist(), weights)
    return {
        name: _weighted_sum(updates, shares or slerp_shares(_gram(updates), weights))
        for name, updates in by_module.items()
    }


def refactored(update: LowRank, rank: int) -> tuple[LowRank, float, float]:
    """Compute the closest update of a lower rank from the singular values (Eckart and Young).

    Returns:
        The update, and the squared Frobenius norms of what is lost and of the whole.
    """
    up, down = _matrices(update)
    left, left_core = torch.linalg.qr(up)
    right, right_core = torch.linalg.qr(down.T)
    u, s, vh = torch.linalg.svd(left_core @ right_core.T)
    kept = min(rank, len(s))
    root = s[:kept].sqrt()
    smaller = LowRank(
        _shaped(left @ u[:, :kept] * root, update.up, rank, dim=1),
        _shaped((root[:, None] * vh[:kept]) @ right.T, update.down, rank, dim=0),
    )
    return smaller, s[kept:].square().sum().item(), s.square().sum().item()


def _gram(updates: Sequence[LowRank]) -> list[list[float]]:
    """The inner products <B_i A_i, B_j A_j>, as sums over (B_iᵀ B_j) * (A_i A_jᵀ), which are only r x r."""
    factors = [_matrices(update) for update in updates]
    return [
        [((up.T @ other_up) * (down @ other_down.T)).sum().item() for other_up, other_down in factors]
        for up, down in factors
    ]


def _weighted_sum(updates: Sequence[LowRank], shares: Sequence[float]) -> LowRank:
    """The sum of share * update, by stacking the factors."""
    up = torch.cat([share * update.up for share, update in zip(shares, updates, strict=True)], dim=1)
    return LowRank(up, torch.cat([update.down for update in updates], dim=0))


def _matrices(update: LowRank) -> tuple[Float[Tensor, "out r"], Float[Tensor, "r in"]]:
    """B and A as float64 matrices; a small angle needs the precision."""
    return update.up.flatten(1).double(), update.down.flatten(1).double()


def _shaped(
    factor: Float[Tensor, "rows columns"], like: Float[Tensor, "..."], rank: int, dim: int
) -> Float[Tensor, "..."]:
    """Pad a factor with zeros to `rank` along `dim`, in the shape and dtype of `like` otherwise."""
    shape = [*like.shape]
    shape[dim] = rank
    padding = (0, 0, 0, rank - len(factor)) if dim == 0 else (0, rank - factor.shape[1])
    return torch.nn.functional.pad(factor, padding).reshape(shape).to(like.dtype)


def _check(updates: Sequence[LowRank]) -> None:
    sizes = {(u.up.shape[0], *u.up.shape[2:], *u.down.shape[1:]) for u in updates}
    if len(sizes) > 1 or any(u.up.shape[1] != u.rank for u in updates):
        shapes = ", ".join(f"policy {k} {[*u.up.shape]} {[*u.down.shape]}" for k, u in enumerate(updates))
        raise ValueError(f"shapes differ: {shapes}")
    for k, update in enumerate(updates):
        for name, factor in (("up", update.up), ("down", update.down)):
            check_everywhere(f"policy {k} {name}", factor, torch.isfinite(factor), "finite")
