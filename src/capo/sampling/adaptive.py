"""Adaptive sampling: a prompt gets more samples until its pairs are clear.

The files are those of stage `generate`, and the images are a subset of those that a fixed number of samples
would give. The scores that decide when a prompt has enough are kept with the images, so the score stage
does not compute them again.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch

from capo.engine.device import select_device
from capo.engine.shard_work import Workplace
from capo.images.sample_table import sample_table
from capo.images.shard_builder import ShardBuilder
from capo.images.shard_files import read_samples
from capo.method.clear_pairs import has_clear_pairs
from capo.pairing.selecting import SelectionRule, make_pairs, selection_rule
from capo.recipe import Recipe, RewardSection
from capo.recipe.sample_sections import AdaptiveSection
from capo.rewards import Scored, build_comparison, reject_negative
from capo.sampling.generate import sample_prompts
from capo.scoring.rater import ImageRows, Rater
from capo.store.step import Job


def adaptive_samples(job: Job) -> None:
    """Fill `samples/` with as many images of every prompt as `generate.adaptive` asks for.

    Raises what the score stage raises for a reward that cannot score.
    """
    summary = sample_prompts(job, partial(adaptive_waves, job.recipe))
    shards = read_samples(job.artifact, columns=["prompt_id"])
    counts = Counter(n for shard in shards for n in Counter(shard["prompt_id"].to_pylist()).values())
    most = summary["samples"]
    summary["samples"] = sum(samples * prompts for samples, prompts in counts.items())
    by_samples = {str(samples): counts[samples] for samples in sorted(counts)}
    job.artifact.commit(summary | {"samples_at_most": most, "prompts_by_samples": by_samples})


def adaptive_waves(recipe: Recipe, place: Workplace) -> "AdaptiveWaves":
    """Return what decides on the samples of a prompt, with the training rewards on this process's device."""
    assert recipe.generate.adaptive is not None
    rule = selection_rule(recipe.pairs, recipe.training_rewards)
    scorer = WaveScorer(recipe.training_rewards, select_device(recipe.engine))
    return AdaptiveWaves(recipe.generate.adaptive, recipe.generate.samples_per_prompt, scorer, rule)


class WaveScorer:
    """Scores the images of a shard that is being sampled by all training rewards, which stay loaded."""

    def __init__(self, rewards: Sequence[RewardSection], device: torch.device) -> None:
        self.comparisons = [build_comparison(section) for section in rewards]
        self._raters = {section.name: Rater(section, device) for section in rewards}

    def begin(self, shard: ShardBuilder) -> None:
        """Give a shard the columns for scores."""
        shard.scores = {name: [] for name in self._raters}

    def score(self, shard: ShardBuilder) -> np.ndarray:
        """Score the rows that have no scores yet and keep the scores in `shard`.

        Returns [rows, L], NaN where a score is missing. Raises `RewardError` for a negative score that the
        reward's comparison cannot take.
        """
        start = len(next(iter(shard.scores.values())))
        rows = shard.rows[start:]
        prompts = [shard.prompts[row.prompt] for row in rows]
        ids, samples = [prompt.prompt_id for prompt in prompts], [row.sample for row in rows]
        images = ImageRows(sample_table({}, shard.files()[start:]), [prompt.text for prompt in prompts])
        columns = []
        for (name, rater), comparison in zip(self._raters.items(), self.comparisons, strict=True):
            scored = rater.score(images, rater.cached(images))
            columns.append(_values(scored))
            reject_negative(name, comparison, columns[-1], ids, samples)
            shard.scores[name] += scored
        return np.stack(columns, axis=-1)


class AdaptiveWaves:
    """The next samples of a shard: `first` for all prompts, then `step` more for unclear ones."""

    def __init__(self, settings: AdaptiveSection, most: int, scorer: WaveScorer, rule: SelectionRule) -> None:
        """`most` is the largest number of samples of a prompt."""
        self._settings, self._most, self._scorer, self._rule = settings, most, scorer, rule

    def __call__(self, shard: ShardBuilder) -> Iterator[list[tuple[int, int]]]:
        """Yield waves; every wave must be sampled before the next one is requested."""
        self._scorer.begin(shard)
        unclear, made = np.arange(len(shard.prompts)), 0
        scores = np.empty((len(unclear), 0, len(self._scorer.comparisons)))
        while len(unclear) and made < self._most:
            until = min(made + (self._settings.step if made else self._settings.first), self._most)
            yield [(int(prompt), sample) for prompt in unclear for sample in range(made, until)]
            if until < self._most:
                wave = self._scorer.score(shard).reshape(len(unclear), until - made, -1)
                scores = np.concatenate([scores, wave], axis=1)
                clear = self._clear(scores)
                unclear, scores = unclear[~clear], scores[~clear]
            made = until

    def _clear(self, scores: np.ndarray) -> np.ndarray:
        """Report which prompts have clear pairs, bool [P], from scores [P, n, L]."""
        pairs = make_pairs(scores, self._scorer.comparisons, self._rule)
        chosen, rejected = torch.from_numpy(pairs.chosen), torch.from_numpy(pairs.rejected)
        combined = torch.from_numpy(pairs.combined)
        return has_clear_pairs(chosen, rejected, combined, self._settings.margin).numpy()


def _values(scored: Sequence[Scored]) -> np.ndarray:
    return np.array([np.nan if row.score is None else row.score for row in scored])
