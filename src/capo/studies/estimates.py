"""Estimates of rows and of differences between rows.

Rows use the same prompts and the same noise, so differences are paired by prompt. Values are averaged over
seeds first, then prompts are the unit: intervals and p-values generalize to other prompts. Only the spread
over seeds shows how another training seed might differ.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from capo.reporting.wording import p_value, points
from capo.scoring.prompt_win_rates import estimate, prompt_error
from capo.studies.measure_names import JUDGED, MEAN

SIGNIFICANT = 0.05

FLIPS = 9999
"""Number of random sign flips, if there are more possible ones."""

FLIPS_AT_ONCE = 1000

TIE = 100 * np.finfo(np.float64).eps
"""Means that differ relatively by less are equal up to rounding."""

PHRASES = {MEAN: "the mean of the training rewards", JUDGED: "images judged correct"}
"""Measures that sentences call by another name."""


def row_estimate(seeds: Sequence[Mapping[str, float]], seed: int) -> dict[str, Any]:
    """Return `value` with interval and standard error over prompts, the means of `seeds`, and their spread.

    `seeds` has the values by prompt id for every run of a row; `seed` determines the resamples.
    """
    means = [float(np.mean(list(values.values()))) for values in seeds]
    values = np.array(list(pooled(seeds).values()))
    return estimate("value", values, seed) | {
        "standard_error": prompt_error(values),
        "seeds": means,
        "spread": float(np.std(means, ddof=1)) if len(means) > 1 else None,
    }


def paired(
    row: Mapping[int, Mapping[str, float]], other: Mapping[int, Mapping[str, float]], seed: int
) -> dict[str, Any] | None:
    """Return the mean difference of two rows: `value`, `low`, `high`, `p`, `seeds`.

    Rows have values by seed and prompt. None if they have no seed and prompt in common.
    """
    differences = [
        {prompt: row[s][prompt] - other[s][prompt] for prompt in row[s] if prompt in other[s]}
        for s in row
        if s in other
    ]
    differences = [by_prompt for by_prompt in differences if by_prompt]
    if not differences:
        return None
    values = np.array(list(pooled(differences).values()))
    means = [float(np.mean(list(by_prompt.values()))) for by_prompt in differences]
    return estimate("value", values, seed) | {"p": sign_flip_p(values, seed), "seeds": means}


def sign_flip_p(differences: np.ndarray, seed: int) -> float:
    """Two-sided p-value of the mean of differences [P] under random sign flips.

    Exact if there are at most `FLIPS` ways to flip the signs. Otherwise the observed signs count as one of
    the flips, so that p is never 0 (Phipson and Smyth, 2010).
    """
    if not differences.any():
        return 1.0
    exact = 2 ** len(differences) <= FLIPS
    mean, rounding = differences.mean(), TIE * abs(differences.mean())
    above = below = flips = 0 if exact else 1
    for signs in _all_signs(len(differences)) if exact else _random_signs(len(differences), seed):
        means = np.multiply(signs.T, differences[:, None], order="C").mean(axis=0)
        above += int(np.count_nonzero(means >= mean - rounding))
        below += int(np.count_nonzero(means <= mean + rounding))
        flips += len(signs)
    return min(1.0, 2 * min(above, below) / flips)


def _all_signs(prompts: int) -> Iterator[np.ndarray]:
    """All sign patterns [2^P, P]."""
    yield np.array(list(itertools.product((1.0, -1.0), repeat=prompts)))


def _random_signs(prompts: int, seed: int) -> Iterator[np.ndarray]:
    """`FLIPS` sign patterns [flips, P], drawn as in scipy's `permutation_test`, which would take minutes."""
    rng = np.random.default_rng(seed)
    for done in range(0, FLIPS, FLIPS_AT_ONCE):
        shape = (min(FLIPS_AT_ONCE, FLIPS - done), prompts)
        yield np.where(rng.integers(0, 2**32, shape, dtype=np.uint32) & 1, 1.0, -1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for the number of comparisons (Holm, 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def sentence(row: str, against: str, measure: str, difference: Mapping[str, Any]) -> str:
    """Return a comparison in words; `difference` is the result of `paired` with `p_corrected` added."""
    value, seeds, by = difference["value"], difference["seeds"], PHRASES.get(measure, measure)
    numbers = (
        f"{points(value)} points (95% interval {points(difference['low'])} to {points(difference['high'])}; "
        f"{p_value(difference['p_corrected'])})"
    )
    if difference["p_corrected"] >= SIGNIFICANT:
        return f"{row} and {against} do not differ significantly by {by}: {numbers}."
    same = sum(np.sign(seed) == np.sign(value) for seed in seeds)
    agreement = "" if len(seeds) == 1 else f", with this sign in {same} of {len(seeds)} seeds"
    return f"{row} is {'above' if value > 0 else 'below'} {against} by {by}: {numbers}{agreement}."


def pooled(seeds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of every prompt over the seeds that have it, ordered by prompt id."""
    prompts = sorted({prompt for values in seeds for prompt in values})
    return {p: float(np.mean([values[p] for values in seeds if p in values])) for p in prompts}
