"""How unlike each other the images of a prompt are.

A policy can buy reward with sameness: each image better, all of them alike.

Notation: P prompts, K images a prompt, D features of an image.
"""

import torch
from torch import Tensor

from .checks import check_finite


def pairwise_distance(features: Tensor) -> Tensor:
    """The mean cosine distance between two different images of a prompt.

    0 for images with equal features, 1 for unrelated ones. The length of a feature vector does not
    count.

    Args:
        features: `[P, K, D]`, float32 or float64, K >= 2, no vector of them zero.

    Returns:
        `[P]` in [0, 2], float64.

    Raises:
        ValueError: for other shapes, and for features that are not finite or zero (with the index).
    """
    check_finite("features", features)
    if features.ndim != 3 or features.shape[1] < 2:
        raise ValueError(f"features must be [P, K, D] with K >= 2, got {list(features.shape)}")
    wide = features.double()
    lengths = wide.norm(dim=-1, keepdim=True)
    if (zero := (lengths == 0).nonzero()).numel():
        raise ValueError(f"features{zero[0, :2].tolist()} are all zero: they have no direction")
    count = features.shape[1]
    # Of K unit vectors u, all ordered pairs together have the cosines |sum u|² − K.
    cosines = (wide / lengths).sum(dim=1).square().sum(dim=-1) - count
    return torch.clamp(1 - cosines / (count * (count - 1)), min=0)
