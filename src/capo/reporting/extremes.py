"""The prompts with the largest gains and losses by each reward, with images of both models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from capo.reporting.examples import ShownPrompt
from capo.reporting.pictures import Gallery, Picture

PROMPTS = 6
"""Maximum number of wins, and of losses, per reward."""

IMAGES = 3
"""Images per model and prompt."""

PIXELS = 160
"""Longest side of an image."""


@dataclass(frozen=True)
class Scores:
    """One reward's scores of both models, float64 [P, K], NaN for missing scores."""

    reward: str
    use: str
    base: np.ndarray
    tuned: np.ndarray

    @property
    def differences(self) -> np.ndarray:
        """Mean score of the tuned images minus that of the base images, per prompt [P]."""
        means = []
        for scores in (self.tuned, self.base):
            known = np.isfinite(scores)
            total = np.where(known, scores, 0.0).sum(axis=1)
            means.append(np.where(known.any(axis=1), total, np.nan) / np.maximum(1, known.sum(axis=1)))
        return means[0] - means[1]


@dataclass(frozen=True)
class ScoredPicture:
    """An image and its raw score, None if it has no score."""

    picture: Picture
    score: float | None


@dataclass(frozen=True)
class Extreme:
    """One prompt, the change of its mean score, and the first images of both models."""

    prompt: ShownPrompt
    difference: float
    base: tuple[ScoredPicture, ...]
    tuned: tuple[ScoredPicture, ...]


@dataclass(frozen=True)
class Extremes:
    """One reward's largest gains and largest losses, most extreme first."""

    reward: str
    use: str
    wins: tuple[Extreme, ...]
    losses: tuple[Extreme, ...]


def extremes(
    prompts: Sequence[ShownPrompt], rewards: Sequence[Scores], galleries: Mapping[str, Gallery]
) -> tuple[Extremes, ...]:
    """Return the extremes by every reward.

    `galleries` has the images of the models `base` and `tuned`; all scores are in the order of `prompts`.
    """
    ranked = [biggest(scores.differences, PROMPTS) for scores in rewards]
    samples = range(min(IMAGES, rewards[0].base.shape[1]))
    wanted = {prompts[p].prompt_id: samples for places in ranked for side in places for p in side}
    pictures = {model: gallery.pictures(wanted, PIXELS) for model, gallery in galleries.items()}

    def side(model: str, p: int, scores: np.ndarray) -> tuple[ScoredPicture, ...]:
        prompt_id = prompts[p].prompt_id
        known = [float(score) if np.isfinite(score) else None for score in scores[p]]
        return tuple(ScoredPicture(pictures[model][prompt_id, k], known[k]) for k in samples)

    def extreme(scores: Scores, p: int) -> Extreme:
        difference = float(scores.differences[p])
        return Extreme(prompts[p], difference, side("base", p, scores.base), side("tuned", p, scores.tuned))

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
    """Return the indices of the `count` largest gains and losses. NaN is ignored; ties keep their order."""
    rising, falling = np.argsort(-differences, kind="stable"), np.argsort(differences, kind="stable")
    wins = [int(p) for p in rising if differences[p] > 0]
    losses = [int(p) for p in falling if differences[p] < 0]
    return wins[:count], losses[:count]
