"""Rewards that hardly influence the pairs, because their calibrated values vary far less than another's."""

from collections.abc import Mapping

import numpy as np

SPREAD_RATIO = 3.0
"""A reward is underweighted if another one's calibrated values spread more than this many times as far."""


def underweighted_rewards(spread: np.ndarray, weights: np.ndarray) -> tuple[int, list[int]]:
    """The reward with the largest spread, and the rewards that it outweighs, as indices.

    Args:
        spread: [L], the standard deviation of every reward's calibrated values.
        weights: [L], those of the combined reward; a reward of weight 0 does not count.
    """
    counted = weights > 0
    strongest = int(np.argmax(np.where(counted, spread, -np.inf)))
    weak = np.flatnonzero(counted & (spread[strongest] > SPREAD_RATIO * spread))
    return strongest, weak.tolist()


TIED = 0.5
"""Share of ties above which no parameter of a comparison makes a reward count as much as others."""

SHARPER = {"bradley-terry": "a lower temperature", "power-ratio": "a higher exponent"}
"""By comparison, what makes a reward count more."""


def advice(ties: float, comparison: str, suggestion: Mapping[str, float] | None = None) -> str:
    """What makes an underweighted reward count more, as the end of a sentence.

    Args:
        ties: the share of its comparisons in which the raw scores are equal.
        comparison: the name of its comparison model.
        suggestion: the parameter that would give it the spread of the strongest reward, if it is known.
    """
    if suggestion is not None:
        ((name, value),) = suggestion.items()
        return f"{name} {value:g} would make them equal"
    if ties == 1:
        return "it scores all samples of a prompt alike, so no setting makes it count; use a finer reward"
    if ties > TIED:
        return f"{100 * ties:.0f}% of its comparisons are ties, which no parameter breaks: raise its weight"
    if comparison in SHARPER:
        return f"{SHARPER[comparison]} or a larger weight makes it count more"
    return "a larger weight makes it count more"


def underweighted_warning(name: str, spread: float, strongest: str, strongest_spread: float) -> str:
    """The observation, without a final period, for a caller to add what helps."""
    return (
        f"{name} is underweighted: its calibrated rewards have a standard deviation of {spread:.2g}, those "
        f"of {strongest} one of {strongest_spread:.2g}"
    )
