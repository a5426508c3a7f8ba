"""Rows against each other: the same prompts and the same noise, so prompt by prompt.

Values are averaged over seeds first, then prompts are the unit: intervals and p-values say how sure a
result is on other prompts. How another training seed would come out, only the spread over seeds says.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from capo.reporting.forest import MEAN
from capo.reporting.wording import p_value, points
from capo.scoring.prompt_win_rates import estimate, prompt_error
from capo.studies.measures import JUDGED

SIGNIFICANT = 0.05

FLIPS = 9999
"""Random flips of the signs, where there are more ways."""

FLIPS_AT_ONCE = 1000

TIE = 100 * np.finfo(np.float64).eps
"""Means that differ by less, relatively, are the same but for rounding."""

PHRASES = {MEAN: "the mean of the training rewards", JUDGED: "images found right"}
"""Measures in a sentence, where not by their name."""


def row_estimate(seeds: Sequence[Mapping[str, float]], seed: int) -> dict[str, Any]:
    """`value` with its interval and standard error over prompts, and the mean of each seed with its spread.

    `seeds` has the values by prompt id of every run of a row; `seed` decides the resamples.
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
    """The mean difference of two rows, given by seed and prompt: `value`, `low`, `high`, `p`, `seeds`.

    None when no seed and prompt is common to both.
    """
    differences = [
        {prompt: row[s][prompt] - other[s][prompt] for prompt in row[s] if prompt in other[s]}
        for s in row
        if s in other
    ]
    differences = [each for each in differences if each]
    if not differences:
        return None
    values = np.array(list(pooled(differences).values()))
    means = [float(np.mean(list(each.values()))) for each in differences]
    return estimate("value", values, seed) | {"p": sign_flip_p(values, seed), "seeds": means}


def sign_flip_p(differences: np.ndarray, seed: int) -> float:
    """How often a mean as far from 0 comes of flipping the signs of the differences [P] at random.

    Two-sided; exact where few prompts leave few ways to flip them. Otherwise what was found counts as
    one of the flips, so that p is never 0 (Phipson and Smyth, 2010).
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
    """Every way [2^P, P] to sign as many differences."""
    yield np.array(list(itertools.product((1.0, -1.0), repeat=prompts)))


def _random_signs(prompts: int, seed: int) -> Iterator[np.ndarray]:
    """`FLIPS` ways [flips, P], as scipy's `permutation_test` draws them, which takes minutes for them."""
    rng = np.random.default_rng(seed)
    for done in range(0, FLIPS, FLIPS_AT_ONCE):
        shape = (min(FLIPS_AT_ONCE, FLIPS - done), prompts)
        yield np.where(rng.integers(0, 2**32, shape, dtype=np.uint32) & 1, 1.0, -1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: p-values that stay right however many comparisons were made (Holm, 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def sentence(row: str, against: str, measure: str, found: Mapping[str, Any]) -> str:
    """A comparison in words; `found` has `p_corrected` besides what `paired` gives."""
    value, seeds, by = found["value"], found["seeds"], PHRASES.get(measure, measure)
    told = (
        f"{points(value)} points (95% interval {points(found['low'])} to {points(found['high'])}; "
        f"{p_value(found['p_corrected'])})"
    )
    if found["p_corrected"] >= SIGNIFICANT:
        return f"{row} cannot be told from {against} by {by}: {told}."
    same = sum(np.sign(each) == np.sign(value) for each in seeds)
    agree = "" if len(seeds) == 1 else f", with this sign in {same} of {len(seeds)} seeds"
    return f"{row} is {'above' if value > 0 else 'below'} {against} by {by}: {told}{agree}."


def pooled(seeds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each prompt's mean over the seeds that have it, prompts in order of their ids."""
    prompts = sorted({prompt for values in seeds for prompt in values})
    return {p: float(np.mean([values[p] for values in seeds if p in values])) for p in prompts}
