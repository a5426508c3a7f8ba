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
from capo.pairing.pair_table import PairTable
from capo.pairing.underweighted import TIED, advice, underweighted_rewards, underweighted_warning
from capo.rewards import describe_comparison

PROMPTS = 1000
"""The number of evenly spaced prompts from which a parameter is suggested."""

LEAST_LEFT = 0.05
"""Rewards oppose each other if less than this part of their variance is left in the combined reward."""

MAX_FACTOR = 1e6
"""The largest factor between a suggested parameter and the current one."""


@dataclass(frozen=True)
class RewardCalibration:
    """One reward's part in the pairs."""

    name: str
    comparison: dict[str, Any] | None
    mean: float
    """Mean of the raw scores."""
    std: float
    """Standard deviation of the raw scores."""
    within: float
    """Standard deviation of the raw scores about the mean of their prompt."""
    spread: float
    """Standard deviation of the calibrated rewards."""
    ties: float
    """Share of the comparisons between two samples of a prompt in which the raw scores are equal."""
    share: float | None
    """Share of the variance of the combined reward; those of all rewards add up to 1. None if rewards cancel
    each other, so that almost no variance is left to share."""
    suggestion: dict[str, float] | None = None
    """The parameter that would give an underweighted reward the spread of the strongest one."""


@dataclass(frozen=True)
class CalibrationReport:
    """How much every reward of a run counts in its pairs."""

    prompts: int
    samples: int
    set_aside: int
    """Samples that lack a score."""
    rewards: tuple[RewardCalibration, ...]
    correlation: list[list[float | None]]
    """[L][L], between calibrated rewards within prompts; None where one does not vary."""
    without_pair: int
    """Prompts without a pair."""
    chosen: float
    """Mean number of chosen samples of a prompt with a pair."""
    rejected: float
    """Mean number of rejected samples of a prompt with a pair."""
    mean_delta_reward: float | None
    not_better: float | None
    """Share of the pairs with ΔR ≤ 0."""
    agreement: Mapping[str, float | None]
    """By reward, how often it prefers what people prefer, ties counting half; empty without labels."""
    warnings: tuple[str, ...]


def summarize_calibration(
    pairs: PairTable,
    scores: np.ndarray,
    comparisons: Sequence[Comparison],
    weights: np.ndarray,
    agreements: Mapping[str, float | None],
) -> CalibrationReport:
    """Compute the report of `pairs`, made from raw `scores` [S, L] with combination `weights` [L]."""
    usable = np.isfinite(pairs.combined)
    rewards = _rewards(pairs, scores, comparisons, weights)
    strongest, weak = underweighted_rewards(pairs.spread, weights)
    for i in weak:
        suggestion = _suggestion(
            pairs.prompt[usable], scores[usable, i], comparisons[i], float(pairs.spread[strongest])
        )
        rewards[i] = replace(rewards[i], suggestion=suggestion)
    deltas, paired = pairs.delta_rewards, max(1, len(pairs.paired))
    return CalibrationReport(
        prompts=len(pairs.prompt_ids),
        samples=len(pairs.combined),
        set_aside=int((~usable).sum()),
        rewards=tuple(rewards),
        correlation=[[None if math.isnan(v) else float(v) for v in row] for row in pairs.correlation],
        without_pair=len(pairs.prompt_ids) - len(pairs.paired),
        chosen=float(pairs.chosen.sum() / paired),
        rejected=float(pairs.rejected.sum() / paired),
        mean_delta_reward=float(deltas.mean()) if deltas.size else None,
        not_better=float((deltas <= 0).mean()) if deltas.size else None,
        agreement=dict(agreements),
        warnings=tuple(_warning(rewards[i], rewards[strongest]) for i in weak),
    )


def _rewards(
    pairs: PairTable, scores: np.ndarray, comparisons: Sequence[Comparison], weights: np.ndarray
) -> list[RewardCalibration]:
    usable = np.isfinite(pairs.combined)
    prompt, raw, calibrated = pairs.prompt[usable], scores[usable], pairs.calibrated[usable] - 0.5
    weights = weights / weights.sum()
    combined = calibrated @ weights
    shares = _shares(weights * (calibrated.T @ combined), (combined**2).sum())
    return [
        RewardCalibration(
            name=name,
            comparison=describe_comparison(comparison),
            mean=float(raw[:, i].mean()),
            std=float(raw[:, i].std()),
            within=_std_within_prompts(prompt, raw[:, i]),
            spread=float(pairs.spread[i]),
            ties=tied_share(prompt, raw[:, i]),
            share=shares[i],
        )
        for i, (name, comparison) in enumerate(zip(pairs.rewards, comparisons, strict=True))
    ]


def _shares(parts: np.ndarray, total: float) -> list[float | None]:
    """The parts of a variance [L] as shares of it; all None if opposed parts leave almost nothing of it."""
    if total <= LEAST_LEFT * np.abs(parts).sum():
        return [None] * len(parts)
    return [float(part / total) for part in parts]


def tied_share(prompt: np.ndarray, scores: np.ndarray) -> float:
    """The share of equal scores [S] among all pairs of samples of one prompt; `prompt` [S] is ascending."""
    order = np.lexsort((scores, prompt))
    sizes = np.unique(prompt, return_counts=True)[1]
    changes = np.flatnonzero((np.diff(prompt[order]) != 0) | (np.diff(scores[order]) != 0))
    runs = np.diff(np.concatenate([[-1], changes, [len(order) - 1]]))
    return float((runs * (runs - 1)).sum() / max(1, (sizes * (sizes - 1)).sum()))


def compared_samples(labels: PairTable) -> tuple[np.ndarray, np.ndarray]:
    """The rows [n] of the first and of the second sample of every pair that people compared.

    Simulated people record what they compared. Existing images have labels of the first two of a prompt.
    """
    if labels.compared is not None:
        starts = zip(labels.starts, labels.compared, strict=False)
        rows = np.concatenate([np.empty((0, 2), dtype=int), *(start + pairs for start, pairs in starts)])
        return rows[:, 0], rows[:, 1]
    first = np.flatnonzero(labels.sample == 0)
    first = first[np.isin(first + 1, np.flatnonzero(labels.sample == 1))]
    return first, first + 1


def agreement(labels: PairTable, scores: np.ndarray, compared: tuple[np.ndarray, np.ndarray]) -> float | None:
    """How often the sample with the higher of two `scores` [S] is the one that people prefer.

    `compared` are the rows of the two samples of every comparison. A tie of the scores counts half; ties of
    people do not count. Returns None without a comparison that counts.
    """
    first, second = compared
    people = labels.combined[first] - labels.combined[second]
    model = scores[first] - scores[second]
    counted = np.isfinite(people) & np.isfinite(model) & (people != 0)
    same = np.sign(people[counted]) * np.sign(model[counted])
    return float((same.mean() + 1) / 2) if counted.any() else None


def _std_within_prompts(prompt: np.ndarray, scores: np.ndarray) -> float:
    _, index, counts = np.unique(prompt, return_inverse=True, return_counts=True)
    means = np.bincount(index, weights=scores) / counts
    return float(np.sqrt(((scores - means[index]) ** 2).mean()))


def _suggestion(
    prompt: np.ndarray, scores: np.ndarray, comparison: Comparison, target: float
) -> dict[str, float] | None:
    """The parameter that gives the calibrated rewards the spread `target`; None if ties prevent it."""
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
    low, high = 0.0, math.log(MAX_FACTOR)
    for _ in range(40):
        middle = (low + high) / 2
        spread = calibrate(rows, make(present * math.exp(sharper * middle))).std(correction=0)
        low, high = (middle, high) if spread < target else (low, middle)
    return {name: float(f"{present * math.exp(sharper * high):.2g}")}


def _rows(prompt: np.ndarray, scores: np.ndarray) -> torch.Tensor:
    """The scores of some prompts, [P, N]; N is the most frequent number of samples."""
    _, starts, counts = np.unique(prompt, return_index=True, return_counts=True)
    usual = np.bincount(counts).argmax()
    starts = starts[counts == usual]
    picked = starts[np.linspace(0, len(starts) - 1, min(PROMPTS, len(starts))).astype(int)]
    return torch.from_numpy(scores[picked[:, None] + np.arange(usual)])


def _warning(reward: RewardCalibration, strongest: RewardCalibration) -> str:
    observed = underweighted_warning(reward.name, reward.spread, strongest.name, strongest.spread)
    if reward.suggestion is None and reward.ties <= TIED:
        return f"{observed}; no parameter of its comparison would make them equal: raise its weight"
    name = (reward.comparison or {}).get("comparison", "")
    return f"{observed}; {advice(reward.ties, name, reward.suggestion)}"
