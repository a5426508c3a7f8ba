"""Rows compared with one of them, as cells of a table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from capo.reporting.wording import p_value, points
from capo.studies.estimates import SIGNIFICANT

ABOUT_CONTRASTS = (
    "Percentage points more or less, on the same prompts and the same noise, averaged over seeds. In "
    "brackets the 95% bootstrap interval over prompts; the p-value of flipping signs of prompts at random, "
    "corrected for the number of rows compared by that measure (Holm); and in how many seeds the sign is the "
    "same. Bold: p is below 0.05. Intervals are not corrected, so one may leave out 0 where p says that the "
    "rows cannot be told apart. All of it is about other prompts; what another training seed would do, the "
    "signs of the seeds hint at."
)


@dataclass(frozen=True)
class Contrast:
    """One row less another by one measure."""

    value: str
    """in percentage points, signed"""
    details: str
    """interval, corrected p-value and agreement of the seeds"""
    clear: bool
    """whether it is more than the prompts' chance"""


def contrasts(results: Mapping[str, Any]) -> dict[str, dict[str, Contrast]]:
    """By row and measure; rows in the order of the study, the one that others are compared with left out."""
    found: dict[str, dict[str, Contrast]] = {row["name"]: {} for row in results["rows"]}
    for measure, each in results["comparisons"].items():
        for compared in each:
            found[compared["row"]][measure] = _contrast(compared)
    return {row: by_measure for row, by_measure in found.items() if by_measure}


def nothing_compared(results: Mapping[str, Any]) -> str:
    """Why there are no comparisons."""
    if results["against"] not in {row["name"] for row in results["rows"]}:
        return f"{results['against']} has no finished run, so nothing is compared with it."
    if len(results["rows"]) == 1:
        return "There is one row, and nothing to compare it with."
    return f"No other row has a seed and a prompt in common with {results['against']}."


def _contrast(found: Mapping[str, Any]) -> Contrast:
    value, seeds = found["value"], found["seeds"]
    same = sum(np.sign(each) == np.sign(value) for each in seeds)
    agreed = f"; {same} of {len(seeds)} seeds" if len(seeds) > 1 else ""
    return Contrast(
        points(value),
        f"{points(found['low'])} to {points(found['high'])}; {p_value(found['p_corrected'])}{agreed}",
        found["p_corrected"] < SIGNIFICANT,
    )
