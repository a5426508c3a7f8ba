"""The scores of one model on a benchmark, as weighted means over prompts.

Everything that intervals and paired comparisons need is in a `Score`, so a benchmark only says which number
every prompt has, and how the prompts are weighted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Score:
    """One number of a benchmark: the weighted mean of a value per prompt."""

    name: str
    """The row in the table: a category as the benchmark names it, or `overall`."""
    values: Mapping[int, float]
    """Value by number of the prompt, without prompts that have none."""
    weights: Mapping[int, float] = field(default_factory=dict)
    """Weight of every prompt, above 0, on any scale; all equal if empty."""
    strata: Mapping[int, str] = field(default_factory=dict)
    """Categories from which the benchmark takes fixed numbers of prompts; a single one if empty.

    Intervals count the variation within them only."""

    def weight(self, prompt: int) -> float:
        """Return the weight of a prompt that has a value."""
        return self.weights[prompt] if self.weights else 1.0

    @property
    def value(self) -> float | None:
        """The weighted mean; None without any value."""
        total = sum(self.weight(prompt) for prompt in self.values)
        if not total:
            return None
        return sum(self.weight(prompt) * value for prompt, value in self.values.items()) / total


@dataclass(frozen=True)
class Summary:
    """What a benchmark concludes from the judgments of one model."""

    scores: tuple[Score, ...]
    """In the order of the table. Names are unique."""
    overall: str | None = None
    """Name of the headline among them; None if the benchmark has none."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Further official numbers as JSON values, such as deviations over chunks. Shown as they are."""


def mean_by_prompt(rows: Sequence[Mapping[str, Any]], key: str) -> dict[int, float]:
    """Return the mean of the rows' number `key` by prompt."""
    numbers: dict[int, list[float]] = {}
    for row in rows:
        numbers.setdefault(row["prompt"], []).append(float(row[key]))
    return {prompt: sum(values) / len(values) for prompt, values in numbers.items()}


def by_category(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[Score, ...]:
    """Return a score for every category, in order of appearance: the mean of the rows' number `key`."""
    categories: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["category"] is not None:
            categories.setdefault(row["category"], []).append(row)
    return tuple(Score(name, mean_by_prompt(group, key)) for name, group in categories.items())


def mean_of_means(name: str, scores: Sequence[Score]) -> Score:
    """Return the unweighted mean of scores over different prompts, such as GenEval's overall score."""
    values: dict[int, float] = {}
    weights: dict[int, float] = {}
    strata: dict[int, str] = {}
    for score in scores:
        total = sum(score.weight(prompt) for prompt in score.values)
        for prompt, value in score.values.items():
            if prompt in values:
                raise ValueError(f"{name}: prompt {prompt} counts in {strata[prompt]} and in {score.name}")
            values[prompt], strata[prompt] = value, score.name
            weights[prompt] = score.weight(prompt) / total
    return Score(name, values, weights, strata)
