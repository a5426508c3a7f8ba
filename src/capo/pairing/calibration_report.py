"""The numbers of a calibration report, and its warnings.

Notation: S samples of all prompts, L rewards.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from capo.method import BradleyTerry, Comparison, PowerRatio, Threshold, calibrate
from capo.reporting.facts import DROWNED
from capo.reporting.pair_table import PairTable
from capo.rewards import describe_comparison

PROMPTS = 1000
"""That a suggestion is worked out on, evenly chosen."""

FARTHEST = 1e6
"""A suggested parameter is at most so many times larger or smaller than the present one."""


@dataclass(frozen=True)
class RewardCalibration:
    """One reward's part in the pairs."""

    name: str
    comparison: dict[str, Any] | None
    mean: float
    """Of the raw scores."""
    std: float
    within: float
    """Standard deviation of the raw scores about the mean of their prompt, in their unit."""
    spread: float
    """Standard deviation of the calibrated rewards."""
    ties: float
    """Share of any two samples of a prompt whose raw scores are equal."""
    share: float
    """Of the variance of the combined reward; those of all rewards add up to 1."""
    suggestion: dict[str, float] | None = None
    """The parameter of the comparison that would spread a drowned reward like the strongest."""


@dataclass(frozen=True)
class CalibrationReport:
    """How the rewards of a run share in its pairs."""

    prompts: int
    samples: int
    set_aside: int
    """Samples that lack a score."""
    rewards: tuple[RewardCalibration, ...]
    correlation: list[list[float | None]]
    """[L][L], of calibrated rewards within prompts; None where one does not vary."""
    without_pair: int
    """Prompts."""
    chosen: float
    """Samples of a prompt that has a pair, on average."""
    rejected: float
    mean_delta_reward: float | None
    not_better: float | None
    """Share of the pairs with ΔR ≤ 0."""
    agreement: Mapping[str, float | None]
    """By reward, how often it prefers what people prefer, ties counting half; empty without labels."""
    warnings: tuple[str, ...]


def report(
    pairs: PairTable,
    scores: np.ndarray,
    comparisons: Sequence[Comparison],
    weights: np.ndarray,
    agreements: Mapping[str, float | None],
) -> CalibrationReport:
    """The report of `pairs`, made from raw `scores` [S, L] with `weights` [L] of the combined reward."""
    usable = np.isfinite(pairs.combined)
    prompt, raw, calibrated = pairs.prompt[usable], scores[usable], pairs.calibrated[usable] - 0.5
    weights = weights / weights.sum()
    combined = calibrated @ weights
    shares = weights * (calibrated.T @ combined) / max((combined**2).sum(), np.finfo(float).tiny)
    rewards = [
        RewardCalibration(
            name=name,
            comparison=describe_comparison(comparison),
            mean=float(raw[:, i].mean()),
            std=float(raw[:, i].std()),
            within=_within(prompt, raw[:, i]),
            spread=float(pairs.spread[i]),
            ties=tied_share(prompt, raw[:, i]),
            share=float(shares[i]),
        )
        for i, (name, comparison) in enumerate(zip(pairs.rewards, comparisons, strict=True))
    ]
    counted = [reward for reward, weight in zip(rewards, weights, strict=True) if weight]
    strongest = max(counted, key=lambda reward: reward.spread)
    found, warnings = [], []
    for i, reward in enumerate(rewards):
        if weights[i] and strongest.spread > DROWNED * reward.spread:
            reward = replace(
                reward, suggestion=_suggestion(prompt, raw[:, i], comparisons[i], strongest.spread)
            )
            warnings.append(_drowned(reward, strongest))
        found.append(reward)
    deltas, paired = pairs.delta_rewards, max(1, len(pairs.paired))
    return CalibrationReport(
        prompts=len(pairs.prompt_ids),
        samples=len(pairs.combined),
        set_aside=int((~usable).sum()),
        rewards=tuple(found),
        correlation=[[None if math.isnan(v) else float(v) for v in row] for row in pairs.correlation],
        without_pair=len(pairs.prompt_ids) - len(pairs.paired),
        chosen=float(pairs.chosen.sum() / paired),
        rejected=float(pairs.rejected.sum() / paired),
        mean_delta_reward=float(deltas.mean()) if deltas.size else None,
        not_better=float((deltas <= 0).mean()) if deltas.size else None,
        agreement=dict(agreements),
        warnings=tuple(warnings),
    )


def tied_share(prompt: np.ndarray, scores: np.ndarray) -> float:
    """Of all two samples of one prompt, the share whose scores [S] are equal; `prompt` [S] ascends."""
    order = np.lexsort((scores, prompt))
    sizes = np.unique(prompt, return_counts=True)[1]
    changes = np.flatnonzero((np.diff(prompt[order]) != 0) | (np.diff(scores[order]) != 0))
    runs = np.diff(np.concatenate([[-1], changes, [len(order) - 1]]))
    return float((runs * (runs - 1)).sum() / max(1, (sizes * (sizes - 1)).sum()))


def both_of_each(labels: PairTable) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the first and the second image of every prompt that has two, which people compared."""
    first = np.flatnonzero(labels.sample == 0)
    first = first[np.isin(first + 1, np.flatnonzero(labels.sample == 1))]
    return first, first + 1


def agreement(labels: PairTable, scores: np.ndarray, compared: tuple[np.ndarray, np.ndarray]) -> float | None:
    """How often the higher of two `scores` [S] is what people prefer; None when there is nothing to compare.

    `compared` are the rows of the two that people saw beside each other. A tie of the scores counts half;
    ties of people do not count.
    """
    first, second = compared
    people = labels.combined[first] - labels.combined[second]
    model = scores[first] - scores[second]
    counted = np.isfinite(people) & np.isfinite(model) & (people != 0)
    same = np.sign(people[counted]) * np.sign(model[counted])
    return float((same.mean() + 1) / 2) if counted.any() else None


def _within(prompt: np.ndarray, scores: np.ndarray) -> float:
    _, place, counts = np.unique(prompt, return_inverse=True, return_counts=True)
    means = np.bincount(place, weights=scores) / counts
    return float(np.sqrt(((scores - means[place]) ** 2).mean()))


def _suggestion(
    prompt: np.ndarray, scores: np.ndarray, comparison: Comparison, target: float
) -> dict[str, float] | None:
    """The parameter whose calibrated rewards spread like `target`; None where ties leave none."""
    match comparison:
        case BradleyTerry():
            name, present, sharper = "temperature", comparison.temperature, -1
            make: Callable[[float], Comparison] = BradleyTerry
        case PowerRatio():
            name, present, sharper, make = "exponent", comparison.exponent, 1, PowerRatio
        case _:
            return None
    rows = _rows(prompt, scores)
    if calibrate(rows, Threshold()).std(correction=0) <= target:
        return None
    low, high = 0.0, math.log(FARTHEST)
    for _ in range(40):
        middle = (low + high) / 2
        spread = calibrate(rows, make(present * math.exp(sharper * middle))).std(correction=0)
        low, high = (middle, high) if spread < target else (low, middle)
    return {name: float(f"{present * math.exp(sharper * high):.2g}")}


def _rows(prompt: np.ndarray, scores: np.ndarray) -> torch.Tensor:
    """[P, N]: the scores of some prompts with as many samples as most have."""
    _, starts, counts = np.unique(prompt, return_index=True, return_counts=True)
    usual = np.bincount(counts).argmax()
    starts = starts[counts == usual]
    picked = starts[np.linspace(0, len(starts) - 1, min(PROMPTS, len(starts))).astype(int)]
    return torch.from_numpy(scores[picked[:, None] + np.arange(usual)])


def _drowned(reward: RewardCalibration, strongest: RewardCalibration) -> str:
    told = (
        f"{reward.name} is drowned: its calibrated rewards spread {reward.spread:.2g}, those of "
        f"{strongest.name} {strongest.spread:.2g}"
    )
    if reward.suggestion is not None:
        ((name, value),) = reward.suggestion.items()
        return f"{told}; {name} {value:g} would make them alike"
    if reward.ties > 0.5:
        return f"{told}; {100 * reward.ties:.0f} % of its comparisons are ties, which no parameter decides"
    return f"{told}; no parameter of its comparison would make them alike: a larger weight gives it more say"
