"""Samples where they are needed: a prompt gets more of them until its pairs are clear.

The files are those of the generate stage. The images are among those that the full number would
make; what of them was scored on the way is kept beside them, and not scored again.
"""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import torch

from capo.engine.device import select_device
from capo.images.sample_table import sample_table
from capo.images.shard_builder import ShardBuilder
from capo.images.shard_files import read_samples
from capo.method.clear_pairs import has_clear_pairs
from capo.pairing.selecting import make_pairs, selection_rule
from capo.recipe import Recipe
from capo.rewards import Scored, build_comparison, reject_negative
from capo.sampling.generate import sample_prompts
from capo.scoring.rater import ImageRows, Rater
from capo.store.step import Job


def adaptive_samples(job: Job) -> None:
    """Fill `samples/` with as many images of each prompt of the run as `generate.adaptive` asks for.

    Raises what the score stage raises for a reward that cannot score.
    """
    summary = sample_prompts(job, _Waves(job.recipe))
    shards = read_samples(job.artifact, columns=["prompt_id"])
    counts = Counter(n for shard in shards for n in Counter(shard["prompt_id"].to_pylist()).values())
    made = sum(samples * prompts for samples, prompts in counts.items())
    by_samples = {str(samples): counts[samples] for samples in sorted(counts)}
    most = summary["samples"]
    job.artifact.commit(
        summary | {"samples": made, "samples_at_most": most, "prompts_by_samples": by_samples}
    )


class _Waves:
    """What to make next of a shard: `first` samples of each prompt, then `step` more of the unsettled."""

    def __init__(self, recipe: Recipe) -> None:
        assert recipe.generate.adaptive is not None
        self._settings, self._most = recipe.generate.adaptive, recipe.generate.samples_per_prompt
        device = select_device(recipe.engine)
        self._raters = {s.name: Rater(s, device) for s in recipe.training_rewards}
        self._comparisons = [build_comparison(s) for s in recipe.training_rewards]
        self._rule = selection_rule(recipe.pairs, recipe.training_rewards)

    def __call__(self, shard: ShardBuilder) -> Iterator[list[tuple[int, int]]]:
        shard.scores = {name: [] for name in self._raters}
        unsettled, made = np.arange(len(shard.prompts)), 0
        scores = np.empty((len(unsettled), 0, len(self._raters)))
        while len(unsettled) and made < self._most:
            until = min(made + (self._settings.step if made else self._settings.first), self._most)
            yield [(int(prompt), sample) for prompt in unsettled for sample in range(made, until)]
            if until < self._most:
                fresh = self._score(shard).reshape(len(unsettled), until - made, -1)
                scores = np.concatenate([scores, fresh], axis=1)
                settled = self._settled(scores)
                unsettled, scores = unsettled[~settled], scores[~settled]
            made = until

    def _score(self, shard: ShardBuilder) -> np.ndarray:
        """The scores [rows, L] of the rows that were not scored yet, NaN where missing."""
        start = len(next(iter(shard.scores.values())))
        rows = shard.rows[start:]
        prompts = [shard.prompts[row.prompt] for row in rows]
        keys = [prompt.prompt_id for prompt in prompts], [row.sample for row in rows]
        images = ImageRows(sample_table({}, shard.files()[start:]), [prompt.text for prompt in prompts])
        columns = []
        for (name, rater), comparison in zip(self._raters.items(), self._comparisons, strict=True):
            scored = rater.score(images, rater.cached(images))
            shard.scores[name] += scored
            columns.append(_values(scored))
            reject_negative(name, comparison, columns[-1], *keys)
        return np.stack(columns, axis=-1)

    def _settled(self, scores: np.ndarray) -> np.ndarray:
        """Which prompts [P], of scores [P, n, L], have pairs that are clear."""
        pairs = make_pairs(scores, self._comparisons, self._rule)
        chosen, rejected = torch.from_numpy(pairs.chosen), torch.from_numpy(pairs.rejected)
        combined = torch.from_numpy(pairs.combined)
        return has_clear_pairs(chosen, rejected, combined, self._settings.margin).numpy()


def _values(scored: list[Scored]) -> np.ndarray:
    return np.array([np.nan if each.score is None else each.score for each in scored])
