"""The diversity of the images of a prompt."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from capo.method import pairwise_distance


def test_by_hand() -> None:
    """Three directions, 0°, 90° and 180°: distances 1, 2 and 1; lengths do not count."""
    features = torch.tensor([[[2.0, 0.0], [0.0, 0.5], [-1.0, 0.0]], [[1.0, 1.0], [3.0, 3.0], [2.0, 2.0]]])
    assert pairwise_distance(features).tolist() == pytest.approx([4 / 3, 0.0])


def test_agrees_with_the_double_loop() -> None:
    features = torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = [
        sum(1 - cosine_similarity(row[i], row[j], dim=0).item() for i in range(5) for j in range(i)) / 10
        for row in features
    ]
    assert pairwise_distance(features).tolist() == pytest.approx(expected)
    assert torch.allclose(pairwise_distance(features.flip(1)), pairwise_distance(features))


def test_invalid_inputs_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"must be \[P, K, D\] with K >= 2, got \[2, 1, 3\]"):
        pairwise_distance(torch.ones(2, 1, 3))
    with pytest.raises(ValueError, match=r"features\[0, 1, 0\] is nan"):
        pairwise_distance(torch.tensor([[[1.0], [math.nan]]]))
    with pytest.raises(ValueError, match=r"features\[0, 1\] are all zero"):
        pairwise_distance(torch.tensor([[[1.0], [0.0]]]))
