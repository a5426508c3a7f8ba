"""How different the images of one prompt are from each other.

A policy can raise its rewards by giving up diversity: every image gets better, and all look alike.

Notation: P prompts, K images of a prompt, D features of an image.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import check_finite


def pairwise_distance(features: Float[Tensor, "P K D"]) -> Float[Tensor, " P"]:
    """Compute the mean cosine distance between two different images of a prompt.

    0 for images with equal features, 1 for unrelated ones. The length of a feature vector does not
    matter.

    Args:
        features: float32 or float64, K >= 2, without zero vectors.

    Returns:
        In [0, 2], float64.

    Raises:
        ValueError: for other shapes, and for features that are not finite or all zero (names the index).
    """
    check_finite("features", features)
    if features.ndim != 3 or features.shape[1] < 2:
        raise ValueError(f"features must be [P, K, D] with K >= 2, got {list(features.shape)}")
    wide = features.double()
    lengths = wide.norm(dim=-1, keepdim=True)
    if (zero := (lengths == 0).nonzero()).numel():
        raise ValueError(f"features{zero[0, :2].tolist()} are all zero: they have no direction")
    count = features.shape[1]
    # The cosines of all ordered pairs of K unit vectors u add up to |sum u|² − K.
    cosines = (wide / lengths).sum(dim=1).square().sum(dim=-1) - count
    return torch.clamp(1 - cosines / (count * (count - 1)), min=0)
