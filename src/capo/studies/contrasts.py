"""Differences between rows, formatted as table cells."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from capo.reporting.wording import p_value, points
from capo.studies.estimates import SIGNIFICANT

ABOUT_CONTRASTS = (
    "Differences in percentage points on the same prompts and the same noise, averaged over seeds. In "
    "parentheses: the 95% interval over prompts; the p-value of a sign-flip test over prompts, "
    "corrected for the number of rows compared by that measure (Holm); and the number of seeds with the same "
    "sign. Bold: p < 0.05. Intervals are not corrected, so an interval may exclude 0 although p is not "
    "significant. Intervals and p-values generalize to other prompts; only the signs of the seeds hint at "
    "what another training seed would do."
)


@dataclass(frozen=True)
class Contrast:
    """The difference of two rows by one measure."""

    value: str
    """In percentage points, signed."""
    details: str
    """Interval, corrected p-value and agreement of the seeds."""
    clear: bool
    """True if the difference is significant."""


def contrasts(results: Mapping[str, Any]) -> dict[str, dict[str, Contrast]]:
    """Return the contrasts by row and measure, in the order of the study, without the row compared with."""
    rows: dict[str, dict[str, Contrast]] = {row["name"]: {} for row in results["rows"]}
    for measure, comparisons in results["comparisons"].items():
        for difference in comparisons:
            rows[difference["row"]][measure] = _contrast(difference)
    return {row: by_measure for row, by_measure in rows.items() if by_measure}


def nothing_compared(results: Mapping[str, Any]) -> str:
    """Return the reason why the results have no comparisons."""
    if results["against"] not in {row["name"] for row in results["rows"]}:
        return f"Nothing to compare: {results['against']} has no finished run."
    if len(results["rows"]) == 1:
        return "Nothing to compare: the study has one row."
    return f"Nothing to compare: no other row shares a seed and a prompt with {results['against']}."


def _contrast(difference: Mapping[str, Any]) -> Contrast:
    value, seeds = difference["value"], difference["seeds"]
    same = sum(seed * value > 0 for seed in seeds)
    agreed = f"; {same} of {len(seeds)} seeds" if len(seeds) > 1 else ""
    return Contrast(
        points(value),
        f"{points(difference['low'])} to {points(difference['high'])}; "
        f"{p_value(difference['p_corrected'])}{agreed}",
        difference["p_corrected"] < SIGNIFICANT,
    )
