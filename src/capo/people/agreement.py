"""Agreement of raters: Krippendorff's alpha, and the share of agreeing pairs of votes."""

from collections.abc import Mapping, Sequence

import numpy as np


def krippendorff_alpha(units: Mapping[str, Sequence[float]]) -> float | None:
    """Compute Krippendorff's alpha with the interval metric: the squared difference of two values.

    With 0 for one model, 1 for the other and 1/2 for a tie, a tie disagrees with a choice by a quarter of
    what two opposite choices do. Without ties the metric is the same as the nominal one. `alpha` is 1 for
    full agreement, 0 for what chance gives, and negative for systematic disagreement:

        alpha = 1 - D_o / D_e
        D_o = 1/n Σ_u 1/(m_u - 1) Σ_{i≠j in u} (v_i - v_j)²    D_e = 1/(n (n - 1)) Σ_{i≠j} (v_i - v_j)²

    over the n values of all units u with at least two values m_u (Krippendorff, 2011).

    Args:
        units: all values given to a unit, by unit; units with one value are left out.

    Returns:
        At most 1; None if no two raters judged the same unit, or all values are equal.
    """
    kept = [np.asarray(values, dtype=np.float64) for values in units.values() if len(values) > 1]
    if not kept:
        return None
    everything = np.concatenate(kept)
    expected = _squared_differences(everything) / (len(everything) - 1)
    if expected <= 0:
        return None
    observed = sum(_squared_differences(values) / (len(values) - 1) for values in kept)
    return float(1 - observed / expected)


def pairwise_agreement(units: Mapping[str, Sequence[float]]) -> float | None:
    """Return the share of pairs of votes on the same unit that are equal; None without such pairs.

    Every unit counts as often as it has pairs of votes.
    """
    equal = total = 0
    for values in units.values():
        count = len(values)
        _, each = np.unique(np.asarray(values), return_counts=True)
        equal += int((each * (each - 1)).sum())
        total += count * (count - 1)
    return equal / total if total else None


def _squared_differences(values: np.ndarray) -> float:
    """Sum of (v_i - v_j)² over all i ≠ j."""
    centered = values - values.mean()
    return float(2 * len(values) * (centered**2).sum())
