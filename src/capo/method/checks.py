"""What the functions of the method ask of their tensors, and how a refusal is worded."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

EXACT_DTYPES = (torch.float32, torch.float64)


def check_finite(name: str, scores: Tensor) -> None:
    """Refuse scores that are not float32 or float64, or not finite (naming the first's index)."""
    if scores.dtype not in EXACT_DTYPES:
        raise ValueError(f"{name} must be float32 or float64, got {scores.dtype}: convert it first")
    check_everywhere(name, scores, torch.isfinite(scores), "finite: set its sample aside first")


def check_samples(name: str, scores: Tensor, at_least: int) -> None:
    """Refuse scores `[..., N]` with fewer than `at_least` samples in the last dimension."""
    if scores.ndim == 0 or scores.shape[-1] < at_least:
        raise ValueError(
            f"{name} must hold at least {at_least} in its last dimension, got shape {list(scores.shape)}"
        )


def check_everywhere(name: str, values: Tensor, allowed: Tensor, requirement: str) -> None:
    """Raise a ValueError that names the first value which is not `allowed`."""
    if not allowed.all():
        index = (~allowed).nonzero()[0].tolist()
        where = f"{name}{index}" if index else name
        raise ValueError(f"{where} is {values[tuple(index)].item()}, but must be {requirement}")


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Put `what` in front of any refusal raised inside."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def check_same_shape(**tensors: Tensor) -> None:
    """Refuse tensors, given by name, whose shapes differ."""
    if len({tuple(tensor.shape) for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"shapes differ: {shapes}")


def check_same_dtype(**tensors: Tensor) -> None:
    """Refuse tensors, given by name, whose dtypes differ."""
    if len({tensor.dtype for tensor in tensors.values()}) > 1:
        dtypes = ", ".join(f"{name} {tensor.dtype}" for name, tensor in tensors.items())
        raise ValueError(f"dtypes differ: {dtypes}")


def check_positive(name: str, value: float) -> None:
    """Refuse a number that is not positive and finite."""
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be positive and finite, got {value}")


def full_precision(name: str, values: Tensor) -> Tensor:
    """`values` in float32, or in float64 where they are; refuses integers and booleans."""
    if not values.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {values.dtype}")
    return values if values.dtype == torch.float64 else values.float()
