"""Decide when a prompt has enough samples. Not part of the paper, which takes N of every prompt.

Notation as in `selection`.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .checks import check_same_shape


def has_clear_pairs(
    chosen: Bool[Tensor, "*P N"],
    rejected: Bool[Tensor, "*P N"],
    combined: Float[Tensor, "*P N"],
    margin: float,
) -> Bool[Tensor, "*P"]:
    """Return whether the mean ΔR over all pairs of a prompt is at least `margin`.

    The mean runs over every chosen with every rejected sample, which is the expected ΔR of the pair
    that a training step draws. The frontiers themselves keep changing as samples are added, but this
    mean soon does not, so further samples are better spent on prompts without clear pairs.

    Args:
        chosen: X+.
        rejected: X-.
        combined: the combined reward in [0, 1]; may be NaN for samples in neither set.
        margin: a difference of win-rates, in (0, 1].

    Returns:
        False for a prompt without a pair.

    Raises:
        ValueError: if the shapes differ.
    """
    check_same_shape(chosen=chosen, rejected=rejected, combined=combined)
    return _mean(combined, chosen) - _mean(combined, rejected) >= margin


def _mean(values: Float[Tensor, "*P N"], mask: Bool[Tensor, "*P N"]) -> Float[Tensor, "*P"]:
    """The mean over the samples of a mask; NaN, which is below any margin, if the mask is empty."""
    return torch.where(mask, values, 0).sum(dim=-1) / mask.sum(dim=-1)
