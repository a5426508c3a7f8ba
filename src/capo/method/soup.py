"""Merge several policies into one: spherical and linear model soups (Eq. 29, App. B).

Notation (name here -> paper):
    base, first, second     -> theta_0, theta_1, theta_2
    task vector             -> theta_i - theta_0
    angle                   -> Omega, between two task vectors
    amount                  -> lambda of Eq. 29 (not a log-SNR), in [0, 1]
    gram[i][j]              -> inner products of the task vectors i and j

    weights                 -> relative weights of the policies; equal in the paper
    shares                  -> the coefficients c_i below

A soup of k policies is `base + sum of c_i * task_vector_i`. The coefficients depend only on the inner
products of the task vectors. So the same code merges one tensor or a whole model taken as one vector,
for any number of policies, with one tensor per model in memory.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from .checks import check_everywhere, check_same_dtype, check_same_shape, full_precision, naming

_OPPOSITE = 1e-3  # radians from pi within which two task vectors count as opposite
_CANCELLED = 1e-12  # share of its terms' squared lengths below which a sum counts as zero


def slerp(
    base: Float[Tensor, "*shape"],
    first: Float[Tensor, "*shape"],
    second: Float[Tensor, "*shape"],
    amount: float,
) -> Float[Tensor, "*shape"]:
    """Interpolate from `first` (amount 0) to `second` (amount 1) along the arc around `base` (Eq. 29).

    Interpolates linearly if no arc is defined: for task vectors that are parallel, opposite (no arc is
    shortest, and Eq. 29 divides by 0) or zero.

    Args:
        base: one tensor of the model that both policies were tuned from, any floating dtype.
        first: the tensor in one policy, of the same dtype.
        second: the tensor in the other policy, of the same dtype.
        amount: in [0, 1].

    Returns:
        A tensor of the same dtype, computed in float32 (float64 stays float64).

    Raises:
        ValueError: if shapes or dtypes differ, values are integers or not finite (names the index), or
            the amount is outside [0, 1].
    """
    if not 0 <= amount <= 1:
        raise ValueError(f"amount must be in [0, 1], got {amount}")
    _check_like(base, {"first": first, "second": second})
    gram = _gram(base, [first, second])
    shares = _arc_shares(_angle(gram[0][1], gram[0][0], gram[1][1]), amount)
    return _add(base, [first, second], shares)


def soup(
    base: Mapping[str, Tensor],
    policies: Sequence[Mapping[str, Tensor]],
    *,
    interpolation: Literal["slerp", "linear"] = "slerp",
    angle: Literal["tensor", "global"] = "tensor",
    weights: Sequence[float] | None = None,
) -> dict[str, Tensor]:
    """Merge the state dicts of several policies tuned from `base` into one.

    `slerp` merges the policies one after another, the k-th with amount 1/k (App. B). With weights, the
    amount is the share of its weight in the sum so far. The order has a small effect. `linear` takes
    the weighted mean. Integer tensors must be equal in all models and are kept.

    Args:
        base: the state dict that all policies started from; any mapping, including lazily loading ones.
        policies: two or more, with the keys, shapes and dtypes of `base`.
        interpolation: `slerp` (Eq. 29) or `linear`.
        angle: for `slerp`, one angle per tensor, or one global angle of all tensors as a single vector
            (which reads every tensor twice).
        weights: one per policy, at least 0; only their ratios matter. Equal if None.

    Returns:
        name -> tensor, in the order, dtypes and devices of `base`.

    Raises:
        ValueError: naming the key, if a tensor is missing, unexpected, not finite, differs in shape or
            dtype, or holds different integers; if there are fewer than two policies or invalid settings.
    """
    return dict(soup_tensors(base, policies, interpolation=interpolation, angle=angle, weights=weights))


def soup_tensors(
    base: Mapping[str, Tensor],
    policies: Sequence[Mapping[str, Tensor]],
    *,
    interpolation: Literal["slerp", "linear"] = "slerp",
    angle: Literal["tensor", "global"] = "tensor",
    weights: Sequence[float] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of `soup` one by one, so that lazily loading mappings keep one name in memory.

    Arguments and errors as in `soup`; a tensor is checked just before it is merged.
    """
    weights = checked_weights(len(policies), weights)
    check_settings(interpolation, angle)
    for k, policy in enumerate(policies):
        if names := sorted(set(base) ^ set(policy)):
            kind = "has an unexpected" if names[0] in set(policy) else "lacks"
            raise ValueError(f"policy {k} {kind} tensor {names[0]!r} ({len(names)} differ from the base)")
    shares = None
    if interpolation == "linear":
        shares = linear_shares(weights)
    elif angle == "global":
        shares = slerp_shares(task_vector_gram(base, policies), weights)
    return _merge(base, policies, shares, weights)


def linear_shares(weights: Sequence[float]) -> list[float]:
    """Return the shares of the task vectors in a weighted mean."""
    return [weight / math.fsum(weights) for weight in weights]


def slerp_shares(gram: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
    """Return the shares of the task vectors after merging them one by one along arcs (Eq. 29, App. B).

    Args:
        gram: the inner products [k][k] of the task vectors.
        weights: as in `soup`; the k-th policy is merged with amount w_k / (w_1 + ... + w_k).
    """
    shares, total = [1.0], weights[0]
    for k in range(1, len(gram)):
        indices = range(k)
        product = math.fsum(shares[i] * gram[i][k] for i in indices)
        square = math.fsum(shares[i] * shares[j] * gram[i][j] for i in indices for j in indices)
        if square <= _CANCELLED * math.fsum(shares[i] ** 2 * gram[i][i] for i in indices):
            square = 0.0  # opposite vectors canceled, and the rest is rounding error
        total += weights[k]
        amount = weights[k] / total if total > 0 else 0.0
        keep, add = _arc_shares(_angle(product, square, gram[k][k]), amount)
        shares = [*(share * keep for share in shares), add]
    return shares


def _merge(
    base: Mapping[str, Tensor],
    policies: Sequence[Mapping[str, Tensor]],
    shares: list[float] | None,
    weights: Sequence[float],
) -> Iterator[tuple[str, Tensor]]:
    """Yield the merged tensors; if `shares` is None, every tensor uses its own angle."""
    for name in base:
        with naming(f"tensor {name!r}"):
            merged, tuned = _load(name, base, policies)
            if merged.is_floating_point():
                merged = _add(merged, tuned, shares or slerp_shares(_gram(merged, tuned), weights))
        yield name, merged


def _arc_shares(angle: float, amount: float) -> list[float]:
    """The two coefficients of Eq. 29, or (1 - amount, amount) if no arc is defined."""
    if angle == 0 or math.pi - angle < _OPPOSITE:
        return [1 - amount, amount]
    return [math.sin((1 - amount) * angle) / math.sin(angle), math.sin(amount * angle) / math.sin(angle)]


def _angle(product: float, first_square: float, second_square: float) -> float:
    """Omega from inner products; 0 if a vector is zero and has no direction."""
    length = math.sqrt(first_square) * math.sqrt(second_square)
    return math.acos(max(-1.0, min(1.0, product / length))) if length > 0 else 0.0


def _gram(base: Float[Tensor, "*shape"], policies: Sequence[Float[Tensor, "*shape"]]) -> list[list[float]]:
    """The inner products of the task vectors in float64; angles near 0 or pi need the precision."""
    start = full_precision("base", base)
    vectors = torch.stack([(full_precision("policy", p) - start).flatten().double() for p in policies])
    gram: list[list[float]] = (vectors @ vectors.T).tolist()
    return gram


def task_vector_gram(
    base: Mapping[str, Tensor], policies: Sequence[Mapping[str, Tensor]]
) -> list[list[float]]:
    """Compute the inner products [k][k] of the task vectors over all tensors, in float64.

    Raises `ValueError` naming a tensor that `soup` would reject.
    """
    total = [[0.0] * len(policies) for _ in policies]
    for name in base:
        with naming(f"tensor {name!r}"):
            start, tuned = _load(name, base, policies)
        if start.is_floating_point():
            gram = _gram(start, tuned)
            total = [[t + g for t, g in zip(*rows, strict=True)] for rows in zip(total, gram, strict=True)]
    return total


def _add(
    base: Float[Tensor, "*shape"], policies: Sequence[Float[Tensor, "*shape"]], shares: Sequence[float]
) -> Float[Tensor, "*shape"]:
    """The base plus the sum of share * task vector, accumulated in float32, in the dtype of `base`."""
    start = full_precision("base", base)
    merged = start.clone()
    for policy, share in zip(policies, shares, strict=True):
        merged += share * (full_precision("policy", policy) - start)
    merged = merged.to(base.dtype)
    check_everywhere("the merged weight", merged, torch.isfinite(merged), f"finite in {base.dtype}")
    return merged


def _load(
    name: str, base: Mapping[str, Tensor], policies: Sequence[Mapping[str, Tensor]]
) -> tuple[Shaped[Tensor, "*shape"], list[Shaped[Tensor, "*shape"]]]:
    """The tensors called `name`, checked and detached."""
    start = base[name].detach()
    tuned = [policy[name].detach() for policy in policies]
    _check_like(start, {f"policy {k}": tensor for k, tensor in enumerate(tuned)})
    return start, tuned


def _check_like(base: Tensor, others: dict[str, Tensor]) -> None:
    """Raise `ValueError` unless all are finite and match `base` in shape, dtype and integer values."""
    check_same_shape(base=base, **others)
    check_same_dtype(base=base, **others)
    for name, tensor in {"base": base, **others}.items():
        if tensor.is_floating_point():
            check_everywhere(name, tensor, torch.isfinite(tensor), "finite")
        elif not torch.equal(tensor, base):
            raise ValueError(f"{name} differs from the base, and {tensor.dtype} cannot be averaged")


def check_settings(interpolation: str, angle: str) -> None:
    """Raise `ValueError` for unknown settings of a soup."""
    if interpolation not in ("slerp", "linear"):
        raise ValueError(f"interpolation must be 'slerp' or 'linear', got {interpolation!r}")
    if angle not in ("tensor", "global"):
        raise ValueError(f"angle must be 'tensor' or 'global', got {angle!r}")


def checked_weights(count: int, weights: Sequence[float] | None) -> Sequence[float]:
    """Return the weights, equal ones if None.

    Raises `ValueError` unless they are valid weights for `count` policies.
    """
    if count < 2:
        raise ValueError(f"a soup needs at least two policies, got {count}")
    if weights is None:
        return [1.0] * count
    if len(weights) != count:
        raise ValueError(f"{count} policies need {count} weights, got {len(weights)}")
    if not all(math.isfinite(w) and w >= 0 for w in weights) or math.fsum(weights) <= 0:
        raise ValueError(f"weights must be finite, at least 0 and not all 0, got {list(weights)}")
    return weights
