"""Compare rules for adaptive sampling on runs with N samples per prompt.

    python benchmarks/adaptive_budget.py RUN...

Prints the table of docs/guides/adaptive.md over the prompts of all RUNs, which must be scored and have equal
settings. Generates and writes nothing. A rule sees the first samples of a prompt; its result is measured
with the win-rates among all N.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from capo import load_recipe
from capo.method.clear_pairs import has_clear_pairs
from capo.pairing.columns import Columns, read_columns
from capo.pairing.selecting import Pairs, SelectionRule, make_pairs, selection_rule
from capo.store import Run

FIRST, STEP = 4, 4

Rule = Callable[[int], np.ndarray]
"""Returns which prompts [P] have enough samples after the first n."""
PairsOfFirst = dict[int, Pairs]
"""n → the pairs among the first n samples of every prompt."""


def main(runs: Sequence[Path]) -> None:
    torch.set_num_threads(1)
    recipe = load_recipe(runs[0] / "recipe.yaml")
    columns = [read_columns(recipe, Run(run)) for run in runs]
    trial = Trial(columns, selection_rule(recipe.pairs, recipe.training_rewards))
    print(f"{trial.prompts} prompts of {len(runs)} runs, {trial.most} samples each\n")
    head = ("rule", "images a prompt", "mean ΔR", "mean ΔR, fixed", "sets in common", "sets in common, fixed")
    print("| " + " | ".join(head) + " |\n|---|" + "--:|" * (len(head) - 1))
    for name, rule in rules(trial):
        used = trial.used(rule)
        images, quality = (
            used.mean(),
            [values[np.arange(trial.prompts), used].mean() for values in trial.measures],
        )
        fixed = [
            np.interp(images, trial.counts, values[:, trial.counts].mean(axis=0)) for values in trial.measures
        ]
        numbers = (f"{value:.3f}" for pair in zip(quality, fixed, strict=True) for value in pair)
        print(f"| {name} | {images:.1f} | " + " | ".join(numbers) + " |")


class Trial:
    """Scores of P prompts with N samples each, and the pairs among their first n samples."""

    def __init__(self, columns: Sequence[Columns], selection: SelectionRule) -> None:
        parts = [c.scores.reshape(len(c.prompt_ids), -1, len(c.names)) for c in columns]
        scores = np.concatenate(parts)
        self.prompts, self.most, _ = scores.shape
        self.counts = np.arange(2, self.most + 1)
        comparisons = columns[0].comparisons
        self.pairs = {int(n): make_pairs(scores[:, :n], comparisons, selection) for n in self.counts}
        self.measures = [np.zeros((self.prompts, self.most + 1)) for _ in range(2)]
        """Per prompt and n: mean ΔR of the pairs among all N samples (0 without), and overlap of sets."""
        whole = self.pairs[self.most]
        for n, pairs in self.pairs.items():
            self.measures[0][:, n] = np.nan_to_num(difference(pairs, whole.combined[:, :n]))
            self.measures[1][:, n] = (
                overlap(pairs.chosen, whole.chosen) + overlap(pairs.rejected, whole.rejected)
            ) / 2

    def used(self, rule: Rule) -> np.ndarray:
        """Return the number of samples per prompt [P]."""
        used, made = np.full(self.prompts, FIRST), FIRST
        unsettled = np.ones(self.prompts, dtype=bool)
        while made < self.most:
            unsettled &= ~rule(made)
            made += STEP
            used[unsettled] = made
        return used


def rules(trial: Trial) -> Iterator[tuple[str, Rule]]:
    pairs = trial.pairs
    for n in (4, 8, 12, trial.most):
        yield f"{n} of each prompt", partial(as_many, trial.prompts, n)
    yield "sets unchanged by four more", partial(unchanged, pairs)
    for most in (0.02, 0.05):
        yield f"best minus worst grew by at most {most:g} with four more", partial(grown, pairs, most)
    for gain in (0.01, 0.02):
        yield (
            f"one more is expected to widen best minus worst by less than {gain:g}",
            partial(wide, pairs, gain),
        )
    for margin in (0.1, 0.15, 0.2, 0.25):
        yield f"mean ΔR of {margin:g} or more", partial(clear, pairs, margin)


def as_many(prompts: int, n: int, made: int) -> np.ndarray:
    return np.full(prompts, made >= n)


def clear(pairs: PairsOfFirst, margin: float, made: int) -> np.ndarray:
    now = pairs[made]
    return has_clear_pairs(
        torch.from_numpy(now.chosen), torch.from_numpy(now.rejected), torch.from_numpy(now.combined), margin
    ).numpy()


def unchanged(pairs: PairsOfFirst, made: int) -> np.ndarray:
    before = made - STEP
    if before < 2:
        return np.zeros(len(pairs[made].chosen), dtype=bool)
    sides = [(pairs[made].chosen, pairs[before].chosen), (pairs[made].rejected, pairs[before].rejected)]
    return np.all([(new == np.pad(old, ((0, 0), (0, STEP)))).all(axis=1) for new, old in sides], axis=0)


def grown(pairs: PairsOfFirst, most: float, made: int) -> np.ndarray:
    """Stop when the last samples widened the gap between best and worst by at most `most`."""
    combined, before = pairs[made].combined, made - STEP
    if before < 2:
        return np.zeros(len(combined), dtype=bool)
    return np.ptp(combined, axis=1) - np.ptp(combined[:, :before], axis=1) <= most


def wide(pairs: PairsOfFirst, gain: float, made: int) -> np.ndarray:
    """Return how much the last of n samples widens the gap of best and worst, averaged over orders."""
    ordered = np.sort(pairs[made].combined, axis=1)
    return (ordered[:, -1] - ordered[:, -2] + ordered[:, 1] - ordered[:, 0]) / made < gain


def difference(pairs: Pairs, combined: np.ndarray) -> np.ndarray:
    """Return the mean ΔR over all chosen × rejected pairs; NaN without a pair."""
    with np.errstate(invalid="ignore"):
        means = [(combined * side).sum(axis=1) / side.sum(axis=1) for side in (pairs.chosen, pairs.rejected)]
    return means[0] - means[1]


def overlap(some: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return the size of the intersection over the size of the union."""
    both = (some & whole[:, : some.shape[1]]).sum(axis=1)
    return both / np.maximum(some.sum(axis=1) + whole.sum(axis=1) - both, 1)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main([Path(run) for run in sys.argv[1:]])
