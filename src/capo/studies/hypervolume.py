"""Hypervolume of a front over all training rewards, and dominance between the front and other rows.

The hypervolume of points is the volume that they dominate above a reference point. The reference is 50% by
every reward, the base against itself: a point below it by any reward dominates no volume.

Notation: n points, L training rewards, P prompts, B resamples.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from capo.reporting.wording import number
from capo.studies.estimates import pooled
from capo.studies.fronts import Front
from capo.studies.run_measures import Values

CHANCE = 0.5
RESAMPLES = 2000


def front_results(
    front: Front, rows: Mapping[str, Sequence[Values]], rewards: Sequence[str], seed: int
) -> dict[str, Any] | None:
    """Return the points of a front and the rows that are not on it; None if the front has no finished point.

    `rows` has the values of every finished row, seed by seed; `seed` determines the resamples. Rows without
    win-rates by all `rewards` are left out.
    """
    known = [row for row, seeds in rows.items() if seeds and all(v.get(r) for v in seeds for r in rewards)]
    own = [row for row in front.rows if row in known]
    if not own:
        return None
    others = [row for row in known if row not in front.rows]
    rates = _win_rates([rows[row] for row in (*own, *others)], rewards)
    means = np.nanmean(rates, axis=-1)
    resampled = _resampled(rates, seed)
    front_means, indices = means[: len(own)], range(len(own), len(means))

    def dominators(point: np.ndarray) -> list[str]:
        return [row for row, mean in zip(own, front_means, strict=True) if dominates(mean, point)]

    return {
        "name": front.name,
        "of": list(front.of),
        "step": front.step,
        "rewards": list(rewards),
        "reference": CHANCE,
        "hypervolume": _volume(front_means, resampled[:, : len(own)]),
        "points": [
            {
                "row": row,
                "weights": list(front.rows[row]),
                "dominated_by": dominators(point),
            }
            for row, point in zip(own, front_means, strict=True)
        ],
        "others": [
            {
                "row": row,
                "hypervolume": _volume(means[[i]], resampled[:, [i]]),
                "dominated_by": dominators(means[i]),
                "dominates": [r for r, m in zip(own, front_means, strict=True) if dominates(means[i], m)],
            }
            for row, i in zip(others, indices, strict=True)
        ],
    }


def hypervolume(points: np.ndarray) -> float:
    """Share of the volume between 50% and 100% that win-rates [n, L] in [0, 1] dominate."""
    import moocore

    above = np.maximum(points, CHANCE)
    whole = (1 - CHANCE) ** points.shape[1]
    return float(moocore.hypervolume(above, ref=np.full(points.shape[1], CHANCE), maximise=True) / whole)


def dominates(first: np.ndarray, second: np.ndarray) -> bool:
    """True if `first` [L] is nowhere below `second` [L] and somewhere above it."""
    return bool((first >= second).all() and (first > second).any())


def volume_text(estimate: Mapping[str, float]) -> str:
    """Format a hypervolume: `0.42% (0.31 to 0.55)`."""
    value, low, high = (number(100 * estimate[name], 2) for name in ("value", "low", "high"))
    return f"{value}% ({low} to {high})"


def dominance_sentence(other: Mapping[str, Any], front: str) -> str:
    """Return a sentence on how the means of a row compare with the front."""
    parts = []
    if other["dominates"]:
        parts.append(f"dominates {', '.join(other['dominates'])}")
    if other["dominated_by"]:
        parts.append(f"is dominated by {', '.join(other['dominated_by'])}")
    neither = f"neither dominates a point of {front} nor is dominated by one"
    return f"{other['row']} {' and '.join(parts) or neither}."


def _win_rates(rows: Sequence[Sequence[Values]], rewards: Sequence[str]) -> np.ndarray:
    """Mean of every prompt over the seeds [n, L, P]; NaN where a row lacks the prompt."""
    values = [[pooled([seed[reward] for seed in seeds]) for reward in rewards] for seeds in rows]
    prompts = sorted({prompt for row in values for reward in row for prompt in reward})
    return np.array([[[reward.get(p, np.nan) for p in prompts] for reward in row] for row in values])


def _resampled(rates: np.ndarray, seed: int) -> np.ndarray:
    """Means [B, n, L] over prompts drawn with replacement, the same draws for all rows and rewards."""
    prompts = rates.shape[-1]
    shares = np.full(prompts, 1 / prompts)
    drawn = np.random.default_rng(seed).multinomial(prompts, shares, RESAMPLES).astype(np.float64)
    known = np.isfinite(rates)
    sums = np.tensordot(drawn, np.where(known, rates, 0.0), axes=(1, 2))
    counts = np.tensordot(drawn, known.astype(np.float64), axes=(1, 2))
    return np.divide(sums, counts, out=np.full(sums.shape, CHANCE), where=counts > 0)


def _volume(points: np.ndarray, resampled: np.ndarray) -> dict[str, float]:
    """Hypervolume of `points` [n, L] with its 95% interval over prompts, from `resampled` [B, n, L]."""
    low, high = np.quantile([hypervolume(draw) for draw in resampled], [0.025, 0.975]).tolist()
    return {"value": hypervolume(points), "low": low, "high": high}
