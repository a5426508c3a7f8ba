"""The prompts on which a reward sees the tuned model win and lose most, with images of both models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from capo.reporting.examples import Shown
from capo.reporting.pictures import Gallery, Picture

PROMPTS = 6
"""Shown at most of a reward's wins, and of its losses."""

IMAGES = 3
"""Of each model and prompt."""

PIXELS = 160


@dataclass(frozen=True)
class Scores:
    """One reward's scores of both models, float64 [P, K], NaN where one is missing."""

    reward: str
    use: str
    base: np.ndarray
    tuned: np.ndarray

    @property
    def differences(self) -> np.ndarray:
        """Mean score of the tuned model's images of each prompt less that of the base's [P]."""
        means = []
        for scores in (self.tuned, self.base):
            known = np.isfinite(scores)
            total = np.where(known, scores, 0.0).sum(axis=1)
            means.append(np.where(known.any(axis=1), total, np.nan) / np.maximum(1, known.sum(axis=1)))
        return means[0] - means[1]


@dataclass(frozen=True)
class Scored:
    """An image and its raw score, None where it has none."""

    picture: Picture
    score: float | None


@dataclass(frozen=True)
class Extreme:
    """One prompt, by how much its mean score changed, and the first images of either model."""

    prompt: Shown
    difference: float
    base: tuple[Scored, ...]
    tuned: tuple[Scored, ...]


@dataclass(frozen=True)
class Extremes:
    """A reward's biggest wins, largest first, and its biggest losses, worst first."""

    reward: str
    use: str
    wins: tuple[Extreme, ...]
    losses: tuple[Extreme, ...]


def extremes(
    prompts: Sequence[Shown], rewards: Sequence[Scores], galleries: Mapping[str, Gallery]
) -> tuple[Extremes, ...]:
    """By each reward; `galleries` has the images of `base` and `tuned`, of prompts in their order."""
    ranked = [biggest(scores.differences, PROMPTS) for scores in rewards]
    samples = range(min(IMAGES, rewards[0].base.shape[1]))
    wanted = {prompts[p].prompt_id: samples for places in ranked for side in places for p in side}
    pictures = {model: gallery.pictures(wanted, PIXELS) for model, gallery in galleries.items()}

    def side(model: str, p: int, scores: np.ndarray) -> tuple[Scored, ...]:
        prompt_id = prompts[p].prompt_id
        known = [float(score) if np.isfinite(score) else None for score in scores[p]]
        return tuple(Scored(pictures[model][prompt_id, k], known[k]) for k in samples)

    def extreme(of: Scores, p: int) -> Extreme:
        difference = float(of.differences[p])
        return Extreme(prompts[p], difference, side("base", p, of.base), side("tuned", p, of.tuned))

    return tuple(
        Extremes(
            scores.reward,
            scores.use,
            tuple(extreme(scores, p) for p in wins),
            tuple(extreme(scores, p) for p in losses),
        )
        for scores, (wins, losses) in zip(rewards, ranked, strict=True)
    )


def biggest(differences: np.ndarray, count: int) -> tuple[list[int], list[int]]:
    """The places of the `count` largest positive and of the most negative differences, NaN left out.

    Equal ones keep their order.
    """
    rising, falling = np.argsort(-differences, kind="stable"), np.argsort(differences, kind="stable")
    wins = [int(p) for p in rising if differences[p] > 0]
    losses = [int(p) for p in falling if differences[p] < 0]
    return wins[:count], losses[:count]
