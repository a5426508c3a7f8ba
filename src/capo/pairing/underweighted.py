"""Rewards that hardly influence the pairs, because their calibrated values vary far less than another's."""

import numpy as np

SPREAD_RATIO = 3.0
"""A reward is underweighted if another one's calibrated values spread more than this many times as far."""


def underweighted_rewards(spread: np.ndarray, weights: np.ndarray | None = None) -> tuple[int, list[int]]:
    """The reward with the largest spread, and the rewards that it outweighs, as indices.

    Args:
        spread: [L], the standard deviation of every reward's calibrated values.
        weights: [L], those of the combined reward; a reward of weight 0 does not count. All equal if None.
    """
    counted = np.ones(len(spread), dtype=bool) if weights is None else weights > 0
    strongest = int(np.argmax(np.where(counted, spread, -np.inf)))
    weak = np.flatnonzero(counted & (spread[strongest] > SPREAD_RATIO * spread))
    return strongest, weak.tolist()


def underweighted_warning(name: str, spread: float, strongest: str, strongest_spread: float) -> str:
    """The observation, without a final period, for a caller to add what helps."""
    return (
        f"{name} is underweighted: its calibrated rewards have a standard deviation of {spread:.2g}, those "
        f"of {strongest} one of {strongest_spread:.2g}"
    )
