"""Checks of the tensors that the functions of the method take, and the wording of their errors."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

EXACT_DTYPES = (torch.float32, torch.float64)


def check_finite(name: str, scores: Tensor) -> None:
    """Raise `ValueError` unless the scores are finite and float32 or float64; names the first bad index."""
    if scores.dtype not in EXACT_DTYPES:
        raise ValueError(f"{name} must be float32 or float64, got {scores.dtype}: convert it first")
    check_everywhere(name, scores, torch.isfinite(scores), "finite: set its sample aside first")


def check_samples(name: str, scores: Tensor, at_least: int) -> None:
    """Raise `ValueError` if scores `[..., N]` have fewer than `at_least` samples in the last dimension."""
    if scores.ndim == 0 or scores.shape[-1] < at_least:
        raise ValueError(
            f"{name} must hold at least {at_least} in its last dimension, got shape {list(scores.shape)}"
        )


def check_everywhere(
    name: str, values: Shaped[Tensor, "*shape"], allowed: Bool[Tensor, "*shape"], requirement: str
) -> None:
    """Raise `ValueError` naming the first value that is not `allowed`."""
    if not allowed.all():
        index = (~allowed).nonzero()[0].tolist()
        where = f"{name}{index}" if index else name
        raise ValueError(f"{where} is {values[tuple(index)].item()}, but must be {requirement}")


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Prefix the message of any `ValueError` raised inside with `what`."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def check_same_shape(**tensors: Tensor) -> None:
    """Raise `ValueError` if the tensors, passed by name, differ in shape."""
    if len({tuple(tensor.shape) for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"shapes differ: {shapes}")


def check_same_dtype(**tensors: Tensor) -> None:
    """Raise `ValueError` if the tensors, passed by name, differ in dtype."""
    if len({tensor.dtype for tensor in tensors.values()}) > 1:
        dtypes = ", ".join(f"{name} {tensor.dtype}" for name, tensor in tensors.items())
        raise ValueError(f"dtypes differ: {dtypes}")


def check_positive(name: str, value: float) -> None:
    """Raise `ValueError` unless the number is positive and finite."""
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be positive and finite, got {value}")


def full_precision(name: str, values: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Convert to float32, or keep float64; raises `ValueError` for integers and booleans."""
    if not values.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {values.dtype}")
    return values if values.dtype == torch.float64 else values.float()
