"""Names of measures in results and records, and their titles for readers.

The names identify measures in saved records and seed the sign flips, so they must not change.
"""

from collections.abc import Mapping

MEAN = "Mean of training rewards"
JUDGED = "Images found right, less the base's"

HELD_OUT = "Held-out rewards"
CORRECT = "Images found right"

DOMINATION, COLLAPSE = "domination", "collapse"
"""Shares of images that are better, or worse, than the base's with the same noise by all rewards at once."""

TITLES = {JUDGED: "Images judged correct, minus base", CORRECT: "Images judged correct"}


def measure_title(measure: Mapping[str, str]) -> str:
    """Return the title of a measure in `results.json`, marking held-out rewards."""
    title = TITLES.get(measure["name"], measure["name"])
    return f"{title} (held out)" if measure["kind"] == "held out" else title


def source_title(name: str) -> str:
    """Return the title of a source of gains."""
    return TITLES.get(name, name)
