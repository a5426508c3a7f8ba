"""Measure how often 95% intervals of a mean over prompts contain the true mean.

    python benchmarks/coverage.py [EXPERIMENTS]

Draws EXPERIMENTS (2,000 by default) evaluations of every kind and size, and prints a Markdown table with
the coverage of three intervals: the percentile bootstrap (`bootstrap_interval`), the bootstrap-t, and
Student's t within the bounds of the values (`mean_interval`, which capo uses). Below it, the coverage of the
interval of a benchmark's overall score, the mean of the means of six categories, and the share of experiments
without a difference whose sign-flip p-value is below 5%.
"""

import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch

from capo.benchmarks.score_statistics import level
from capo.benchmarks.summary import Score, mean_of_means
from capo.method import mean_interval, sign_flip_p

PROMPTS = (4, 8, 12, 20, 35, 100, 200)
RESAMPLES = 1000

OF_CATEGORY = (2, 3, 4, 8, 16)
"""Prompts in every category of a benchmark."""
RATES = (0.98, 0.8, 0.35, 0.8, 0.15, 0.2)
"""Shares of correct images in the categories, spread about as far as GenEval's."""
UNBOUNDED = (-np.inf, np.inf)

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
Bounds = tuple[float, float]


def win_rates(mean: float, images: int, agreement: float) -> Draw:
    """Win-rates of images x images comparisons; with lower `agreement`, prompts differ more."""

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        chance = rng.beta(agreement * mean, agreement * (1 - mean), shape)
        return rng.binomial(images**2, chance) / images**2

    return draw


def score_differences(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Skewed differences of mean scores, with mean 0: log-normal less its mean."""
    return rng.lognormal(0, 0.75, shape) - np.exp(0.75**2 / 2)


KINDS: dict[str, tuple[Draw, float, Bounds]] = {
    "win-rate 60%, 4 images": (win_rates(0.6, 4, 4.0), 0.6, (0, 1)),
    "win-rate 60%, 1 image": (win_rates(0.6, 1, 4.0), 0.6, (0, 1)),
    "win-rate 80%, 4 images": (win_rates(0.8, 4, 2.0), 0.8, (0, 1)),
    "win-rate 95%, 1 image": (win_rates(0.95, 1, 4.0), 0.95, (0, 1)),
    "skewed score differences": (score_differences, 0.0, UNBOUNDED),
}
"""What is drawn, its true mean, and the bounds of a value."""


def percentile(values: np.ndarray, means: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """Return the 2.5% and 97.5% quantiles of the resampled means."""
    low, high = np.quantile(means, [0.025, 0.975])
    return low, high


def bootstrap_t(values: np.ndarray, means: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """Return the interval by quantiles of the resampled t statistics; resamples without variance are out."""
    known = errors > 0
    if not known.any():
        return values[0], values[0]
    low, high = np.quantile((means[known] - values.mean()) / errors[known], [0.025, 0.975])
    error = values.std(ddof=1) / np.sqrt(len(values))
    return values.mean() - high * error, values.mean() - low * error


def coverage(kind: str, prompts: int, experiments: int) -> Iterator[float]:
    """Yield the coverage of the three intervals."""
    draw, mean, bounds = KINDS[kind]
    rng = np.random.default_rng([prompts, list(KINDS).index(kind)])
    covered = np.zeros(3)
    for values in draw(rng, (experiments, prompts)):
        drawn = values[rng.integers(0, prompts, (RESAMPLES, prompts))]
        means, errors = drawn.mean(axis=1), drawn.std(axis=1, ddof=1) / np.sqrt(prompts)
        intervals = (
            percentile(values, means, errors),
            bootstrap_t(values, means, errors),
            mean_interval(torch.from_numpy(values), bounds),
        )
        covered += [low - 1e-12 <= mean <= high + 1e-12 for low, high in intervals]
    yield from covered / experiments


def overall_coverage(prompts: int, experiments: int) -> float:
    """Return the coverage of the interval of a mean of categories, with four images per prompt."""
    rng = np.random.default_rng(prompts)
    draws = [rng.binomial(4, rng.beta(4 * r, 4 * (1 - r), (experiments, prompts))) / 4 for r in RATES]
    covered = 0
    for drawn in zip(*draws, strict=True):
        starts = range(0, len(RATES) * prompts, prompts)
        groups = [
            Score(str(start), dict(enumerate(values.tolist(), start)))
            for start, values in zip(starts, drawn, strict=True)
        ]
        found = level(mean_of_means("overall", groups), (0, 1))
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered += bool(found.low - 1e-12 <= np.mean(RATES) <= found.high + 1e-12)
    return covered / experiments


def false_positives(prompts: int, experiments: int) -> float:
    """Return the share of experiments without a difference in which p < 0.05."""
    rng = np.random.default_rng(prompts)
    values = win_rates(0.5, 4, 4.0)(rng, (experiments, prompts)) - 0.5
    return float(np.mean([sign_flip_p(torch.from_numpy(v), seed) < 0.05 for seed, v in enumerate(values)]))


def main(experiments: int) -> None:
    """Print the tables."""
    print(f"| prompts | interval | {' | '.join(KINDS)} |")
    print(f"|--:|---|{'--:|' * len(KINDS)}")
    for prompts in PROMPTS:
        columns = [list(coverage(kind, prompts, experiments)) for kind in KINDS]
        for i, name in enumerate(("percentile", "bootstrap-t", "t (used)")):
            cells = " | ".join(f"{100 * column[i]:.1f}%" for column in columns)
            print(f"| {prompts} | {name} | {cells} |", flush=True)
    shares = ", ".join(f"{100 * overall_coverage(p, experiments):.1f}% at {p}" for p in OF_CATEGORY)
    print(f"\nInterval of the mean of six categories: {shares} prompts per category.")
    shares = ", ".join(f"{100 * false_positives(p, experiments):.1f}% at {p}" for p in PROMPTS if p <= 35)
    print(f"\nSign flips, p < 0.05 without a difference: {shares} prompts.")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
