"""When the samples of a prompt are enough: no part of the paper, which takes N of every prompt.

Notation as in `selection`.
"""

import torch
from torch import Tensor

from .checks import check_same_shape


def is_settled(chosen: Tensor, rejected: Tensor, combined: Tensor, margin: float) -> Tensor:
    """Whether the pairs of a prompt differ enough: by `margin` or more on average over all of them.

    The average of ΔR over every chosen with every rejected sample is what a training step draws of
    the prompt in expectation. More samples widen the frontiers too, so that sets hardly ever stop
    changing, while this average does: further samples are better spent on prompts without a clear pair.

    Args:
        chosen: bool `[..., N]`, X+.
        rejected: bool `[..., N]`, X-.
        combined: `[..., N]`, the combined reward in [0, 1]; NaN is fine for samples in neither set.
        margin: in (0, 1], a difference of win-rates.

    Returns:
        bool `[...]`; False for a prompt without a pair.

    Raises:
        ValueError: for shapes that differ.
    """
    check_same_shape(chosen=chosen, rejected=rejected, combined=combined)
    return _mean(combined, chosen) - _mean(combined, rejected) >= margin


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Over the samples of a mask; NaN, which is below any margin, where there is none."""
    return torch.where(mask, values, 0).sum(dim=-1) / mask.sum(dim=-1)
