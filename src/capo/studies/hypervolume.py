"""What a front reaches by all training rewards together, and how other rows stand to it.

The hypervolume of points is the room that they dominate above the reference point. Here that is 50% by
every reward, the base against itself: a point below it by any reward dominates nothing.

Notation: n points, L training rewards, P prompts, B resamples.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from capo.reporting.wording import number
from capo.studies.estimates import pooled
from capo.studies.fronts import Front
from capo.studies.measures import Values

CHANCE = 0.5
RESAMPLES = 2000


def front_results(
    front: Front, rows: Mapping[str, Sequence[Values]], rewards: Sequence[str], seed: int
) -> dict[str, Any] | None:
    """The front and all rows that are not on it; None when no point of it is there.

    `rows` has what each finished row reaches, seed by seed; `seed` decides the resamples. A row without
    win-rates by all `rewards` has no place in the picture.
    """
    known = [row for row, seeds in rows.items() if seeds and all(v.get(r) for v in seeds for r in rewards)]
    own = [row for row in front.rows if row in known]
    if not own:
        return None
    others = [row for row in known if row not in front.rows]
    rates = _win_rates([rows[row] for row in (*own, *others)], rewards)
    means = np.nanmean(rates, axis=-1)
    resampled = _resampled(rates, seed)
    on, places = means[: len(own)], range(len(own), len(means))
    return {
        "name": front.name,
        "of": list(front.of),
        "step": front.step,
        "rewards": list(rewards),
        "reference": CHANCE,
        "hypervolume": _volume(on, resampled[:, : len(own)]),
        "points": [
            {
                "row": row,
                "weights": list(front.rows[row]),
                "dominated_by": [name for name, of in zip(own, on, strict=True) if dominates(of, point)],
            }
            for row, point in zip(own, on, strict=True)
        ],
        "others": [
            {
                "row": row,
                "hypervolume": _volume(means[[place]], resampled[:, [place]]),
                "dominated_by": [n for n, of in zip(own, on, strict=True) if dominates(of, means[place])],
                "dominates": [n for n, of in zip(own, on, strict=True) if dominates(means[place], of)],
            }
            for row, place in zip(others, places, strict=True)
        ],
    }


def hypervolume(points: np.ndarray) -> float:
    """Of win-rates [n, L] in [0, 1]: the share of the room between 50% and 100% that they dominate."""
    import moocore

    above = np.maximum(points, CHANCE)
    whole = (1 - CHANCE) ** points.shape[1]
    return float(moocore.hypervolume(above, ref=np.full(points.shape[1], CHANCE), maximise=True) / whole)


def dominates(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether `first` [L] is nowhere below `second` [L], and somewhere above it."""
    return bool((first >= second).all() and (first > second).any())


def volume(found: Mapping[str, float]) -> str:
    """`0.42% (0.31 to 0.55)`: win-rates of a few points above 50% dominate little of all the room."""
    value, low, high = (number(100 * found[name], 2) for name in ("value", "low", "high"))
    return f"{value}% ({low} to {high})"


def standing(other: Mapping[str, Any], name: str) -> str:
    """How a row stands to the front called `name`, by the means."""
    told = []
    if other["dominates"]:
        told.append(f"dominates {', '.join(other['dominates'])}")
    if other["dominated_by"]:
        told.append(f"is dominated by {', '.join(other['dominated_by'])}")
    return f"{other['row']} {' and '.join(told) or f'neither dominates a point of {name} nor is dominated'}."


def _win_rates(rows: Sequence[Sequence[Values]], rewards: Sequence[str]) -> np.ndarray:
    """Each prompt's mean over the seeds [n, L, P], NaN where a row has none of that prompt."""
    values = [[pooled([seed[reward] for seed in seeds]) for reward in rewards] for seeds in rows]
    prompts = sorted({prompt for row in values for each in row for prompt in each})
    return np.array([[[each.get(p, np.nan) for p in prompts] for each in row] for row in values])


def _resampled(rates: np.ndarray, seed: int) -> np.ndarray:
    """Means [B, n, L] over prompts drawn with replacement, the same for all rows and rewards."""
    prompts = rates.shape[-1]
    shares = np.full(prompts, 1 / prompts)
    drawn = np.random.default_rng(seed).multinomial(prompts, shares, RESAMPLES).astype(np.float64)
    known = np.isfinite(rates)
    sums = np.tensordot(drawn, np.where(known, rates, 0.0), axes=(1, 2))
    counts = np.tensordot(drawn, known.astype(np.float64), axes=(1, 2))
    return np.divide(sums, counts, out=np.full(sums.shape, CHANCE), where=counts > 0)


def _volume(points: np.ndarray, resampled: np.ndarray) -> dict[str, float]:
    """The hypervolume of `points` [n, L] with its 95% interval over prompts, from `resampled` [B, n, L]."""
    low, high = np.quantile([hypervolume(each) for each in resampled], [0.025, 0.975]).tolist()
    return {"value": hypervolume(points), "low": low, "high": high}
