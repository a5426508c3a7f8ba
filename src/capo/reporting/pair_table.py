"""The pairs of a run as flat arrays, and the statistics that tell whether they are any good.

Notation: M samples (of all prompts, one after the other), L training rewards.
"""

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

Array = np.ndarray


@dataclass(frozen=True)
class PairTable:
    """Calibrated rewards and sets of every sample; NaN where a sample was set aside."""

    rewards: tuple[str, ...]
    prompt_ids: tuple[str, ...]
    prompt: Array
    """int [M], index into `prompt_ids`"""
    sample: Array
    """int [M], index within the prompt"""
    calibrated: Array
    """float [M, L], in [0, 1]"""
    combined: Array
    """float [M], the weighted mean over rewards"""
    chosen: Array
    """bool [M]"""
    rejected: Array
    """bool [M]"""

    @classmethod
    def from_arrow(cls, table: "pa.Table", rewards: tuple[str, ...]) -> "PairTable":
        """Flatten `pairs.parquet`, whose rows are prompts."""
        combined = table["combined"].combine_chunks()
        lengths = _lengths(combined)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        samples = int(starts[-1])
        inner = table["calibrated"].combine_chunks().flatten()
        scored = inner.is_valid().to_numpy(zero_copy_only=False)
        calibrated = np.full((samples, len(rewards)), np.nan)
        calibrated[scored] = inner.flatten().to_numpy(zero_copy_only=False).reshape(-1, len(rewards))

        def mask(column: str) -> Array:
            lists = table[column].combine_chunks()
            of_prompt = np.repeat(starts[:-1], _lengths(lists))
            marked = np.zeros(samples, dtype=bool)
            marked[of_prompt + lists.flatten().to_numpy(zero_copy_only=False)] = True
            return marked

        prompt = np.repeat(np.arange(len(lengths)), lengths)
        return cls(
            rewards=rewards,
            prompt_ids=tuple(table["prompt_id"].to_pylist()),
            prompt=prompt,
            sample=np.arange(samples) - starts[prompt],
            calibrated=calibrated,
            combined=combined.flatten().to_numpy(zero_copy_only=False).astype(np.float64),
            chosen=mask("chosen"),
            rejected=mask("rejected"),
        )

    def rows(self, prompt_id: str) -> Array:
        """The samples of one prompt, int [N]."""
        return np.flatnonzero(self.prompt == self.prompt_ids.index(prompt_id))

    @cached_property
    def paired(self) -> tuple[str, ...]:
        """The prompts with a pair, in order."""
        sizes = np.bincount(self.prompt, weights=self.chosen, minlength=len(self.prompt_ids))
        return tuple(name for name, size in zip(self.prompt_ids, sizes, strict=True) if size)

    @cached_property
    def delta_rewards(self) -> Array:
        """ΔR of every chosen × rejected pair of every prompt, one after the other."""
        bounds = np.searchsorted(self.prompt, np.arange(len(self.prompt_ids) + 1))
        deltas = [np.empty(0)]
        for start, end in itertools.pairwise(bounds):
            part = slice(start, end)
            combined = self.combined[part]
            chosen, rejected = combined[self.chosen[part]], combined[self.rejected[part]]
            deltas.append(np.subtract.outer(chosen, rejected).ravel())
        return np.concatenate(deltas)

    @cached_property
    def spread(self) -> Array:
        """The standard deviation of each reward's calibrated values, [L]."""
        scored = self._scored
        return np.asarray(scored.std(axis=0)) if len(scored) else np.full(len(self.rewards), np.nan)

    @cached_property
    def correlation(self) -> Array:
        """Between calibrated rewards, [L, L]; NaN where one does not vary.

        Every prompt's mean is one half, so this is the correlation within prompts.
        """
        centred = self._scored - 0.5
        with np.errstate(invalid="ignore", divide="ignore"):
            covariance = centred.T @ centred
            scale = np.sqrt(np.diag(covariance))
            return np.asarray(covariance / np.outer(scale, scale))

    @property
    def _scored(self) -> Array:
        return np.asarray(self.calibrated[np.isfinite(self.calibrated).all(axis=1)])


def _lengths(lists: "pa.ListArray") -> Array:
    return np.asarray(lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)).astype(np.int64)
