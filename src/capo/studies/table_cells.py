"""Table cells and explanations that the page, the Markdown tables and the terminal share."""

from collections.abc import Mapping
from typing import Any

from capo.reporting.wording import NONE, interval, percent, points
from capo.studies.study import set_options

NULL_ROW = "base against itself"

ABOUT_FRONTS = (
    "A front is traced by soups between policies. One row dominates another if its win-rates by the training "
    "rewards are nowhere lower and somewhere higher. The hypervolume is the share of the volume between 50% "
    "and 100% by all rewards that rows dominate, with its 95% bootstrap interval over prompts; a row below "
    "50% by any reward dominates nothing. More points cover more volume, also by chance."
)

ABOUT_NULL = (
    f"*{NULL_ROW}*: images of the base with other seeds against its own images. This row shows the size of "
    "chance differences."
)

ABOUT_JOINT = (
    "Images of the tuned model against the base's with the same noise. Better: no reward, held-out ones "
    "included, scores the image lower, and some reward scores it higher (joint domination). Worse: the "
    "reverse (joint collapse). The rewards disagree on all other images."
)

ABOUT_COST = (
    "Drift is the mean squared difference between the predictions of the policy and its reference on "
    "training pairs, at the saved step. Error growth is the relative growth of the denoising error on chosen "
    "samples. Time is that of one seed's run if it made everything itself, earlier rounds included; the time "
    "of a soup covers only its evaluation, since its policies are rows of their own."
)

ABOUT_EQUAL_DRIFT = (
    "Measures on the validation prompts where a row first reaches the drift, interpolated linearly between "
    "validations (or from the base to the first). The highest level is the largest drift that every run "
    "reaches. The lowest, if smaller, is the drift by which every run had its first validation. Means over "
    "seeds ± the standard deviation between them."
)


def estimate_cell(estimate: Mapping[str, Any] | None, kind: str) -> str:
    """Format an estimate: `61.6% (60.6 to 62.5%; seeds ±0.3)`; the judge's difference is in points."""
    if estimate is None:
        return NONE
    if kind == "judge":
        text = f"{points(estimate['value'])} ({points(estimate['low'])} to {points(estimate['high'])}"
    else:
        text = f"{percent(estimate['value'])} ({interval(estimate['low'], estimate['high'])}"
    spread = estimate["spread"]
    return text + (")" if spread is None else f"; seeds ±{100 * spread:.1f})")


def brief_estimate(estimate: Mapping[str, Any] | None, kind: str) -> str:
    """Format an estimate with its standard error over prompts: `61.6% ±0.5`."""
    if estimate is None:
        return NONE
    text = points(estimate["value"]) if kind == "judge" else percent(estimate["value"])
    error = estimate["standard_error"]
    return text if error is None else f"{text} ±{100 * error:.1f}"


def seed_mean(summary: Mapping[str, float | None], kind: str) -> str:
    """Format a mean over seeds with their standard deviation: `61.6% ±0.5`."""
    value, spread = summary["value"], summary["spread"]
    assert value is not None
    text = points(value) if kind == "judge" else percent(value)
    return text if spread is None else f"{text} ±{100 * spread:.1f}"


def row_settings(row: Mapping[str, Any]) -> str:
    """Describe how a row differs from the others, with settings as in `--set`."""
    own = ", ".join(set_options(row["set"]))
    parts = list(row["soup"])
    if row["weights"]:
        shares = zip(row["soup"], row["weights"], strict=True)
        parts = [f"{weight:.3g} {name}" for name, weight in shares if weight]
    kind = "linear soup of" if row.get("interpolation") == "linear" else "soup of"
    start = f"continues {row['start']}" if row.get("start") else ""
    return "; ".join(filter(None, [start, f"{kind} {', '.join(parts)}" if parts else "", own]))


def seed_count(row: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Return `2 of 3 seeds` for a row that lacks some; empty otherwise."""
    finished, total = len(row["seeds"]), len(results["seeds"])
    return "" if finished == total else f"{finished} of {total} seeds"


def scored_rewards(results: Mapping[str, Any]) -> list[str]:
    """Return the rewards that any row has scores of."""
    return list(dict.fromkeys(reward for row in results["rows"] for reward in row["mean_scores"]))


def drift_measures(results: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """Return the measures available at equal drift."""
    equal = results["equal_drift"]
    return [] if equal is None else [m for m in results["measures"] if m["name"] in equal["measures"]]
