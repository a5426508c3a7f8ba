"""Estimates of rows and of differences between rows.

Rows use the same prompts and the same noise, so differences are paired by prompt. Values are averaged over
seeds first, then prompts are the unit: intervals and p-values generalize to other prompts. Only the spread
over seeds shows how another training seed might differ.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from capo.method import sign_flip_p
from capo.reporting.wording import p_value, points
from capo.scoring.prompt_win_rates import CHANGE, Limits, estimate, prompt_error
from capo.studies.measure_names import JUDGED, MEAN

SIGNIFICANT = 0.05

PHRASES = {MEAN: "the mean of the training rewards", JUDGED: "images judged correct"}
"""Measures that sentences call by another name."""


def row_estimate(seeds: Sequence[Mapping[str, float]], limits: Limits) -> dict[str, Any]:
    """Return `value` with interval and standard error over prompts, the means of `seeds`, and their spread.

    `seeds` has the values by prompt id for every run of a row; `limits` are the bounds of a value.
    """
    means = [float(np.mean(list(values.values()))) for values in seeds]
    values = np.array(list(pooled(seeds).values()))
    return estimate("value", values, limits) | {
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
    p = sign_flip_p(torch.from_numpy(values), seed)
    return estimate("value", values, CHANGE) | {"p": p, "seeds": means}


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
