"""The pairs of a run as flat arrays: the one reader of `pairs.parquet`, and the statistics of the pairs.

Notation: M samples (those of one prompt after those of another), L training rewards.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from capo.store import Artifact

if TYPE_CHECKING:
    import pyarrow as pa

Array = np.ndarray

CHOSEN_AT_ONCE = 1 << 16
"""Chosen samples that are paired at once, which bounds the memory."""


@dataclass(frozen=True, kw_only=True)
class PairTable:
    """Calibrated rewards and the chosen and rejected sets; NaN where a sample was set aside."""

    rewards: tuple[str, ...]
    comparisons: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The name and the parameter of every reward's comparison model."""
    prompt_ids: tuple[str, ...]
    prompt: Array
    """int [M], index into `prompt_ids`, ascending"""
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
    compared: tuple[Array, ...] | None = None
    """For every prompt int [n, 2], the samples that people compared, chosen first; None if rewards decide."""

    @classmethod
    def read(cls, artifact: Artifact) -> "PairTable":
        """Read the artifact `pairs`."""
        return cls.from_arrow(artifact.read_table("pairs.parquet"))

    @classmethod
    def from_arrow(cls, table: "pa.Table") -> "PairTable":
        """Flatten a table with the columns and the metadata of `pairs.parquet`, one row per prompt."""
        metadata = table.schema.metadata or {}
        rewards = tuple(json.loads(metadata[b"rewards"]))
        combined = table["combined"].combine_chunks()
        lengths = _lengths(combined)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        samples = int(starts[-1])
        inner = table["calibrated"].combine_chunks().flatten()
        scored = inner.is_valid().to_numpy(zero_copy_only=False)
        calibrated = np.full((samples, len(rewards)), np.nan)
        calibrated[scored] = inner.flatten().to_numpy(zero_copy_only=False).reshape(-1, len(rewards))
        prompt = np.repeat(np.arange(len(lengths)), lengths)
        compared = None
        if "compared" in table.column_names:
            pairs = table["compared"].to_pylist()
            compared = tuple(np.array(pair, dtype=np.int64).reshape(-1, 2) for pair in pairs)
        return cls(
            rewards=rewards,
            comparisons=json.loads(metadata[b"comparisons"]),
            prompt_ids=tuple(table["prompt_id"].to_pylist()),
            prompt=prompt,
            sample=np.arange(samples) - starts[prompt],
            calibrated=calibrated,
            combined=combined.flatten().to_numpy(zero_copy_only=False).astype(np.float64),
            chosen=_mask(table["chosen"].combine_chunks(), starts),
            rejected=_mask(table["rejected"].combine_chunks(), starts),
            compared=compared,
        )

    @cached_property
    def starts(self) -> Array:
        """The first row of every prompt, and M at the end, int [P + 1]."""
        return np.searchsorted(self.prompt, np.arange(len(self.prompt_ids) + 1))

    def rows(self, prompt_id: str) -> Array:
        """The rows of one prompt, int [N]."""
        return np.flatnonzero(self.prompt == self.prompt_ids.index(prompt_id))

    @cached_property
    def paired(self) -> tuple[str, ...]:
        """The prompts with a pair, in order."""
        sizes = np.bincount(self.prompt, weights=self.chosen, minlength=len(self.prompt_ids))
        return tuple(name for name, size in zip(self.prompt_ids, sizes, strict=True) if size)

    @cached_property
    def delta_rewards(self) -> Array:
        """ΔR of every chosen with every rejected sample of its prompt, float [n]."""
        return delta_rewards(self.prompt, self.combined, self.chosen, self.rejected)

    @cached_property
    def spread(self) -> Array:
        """The standard deviation of every reward's calibrated values, [L]."""
        scored = self._scored
        return np.asarray(scored.std(axis=0)) if len(scored) else np.full(len(self.rewards), np.nan)

    @cached_property
    def correlation(self) -> Array:
        """The correlation between calibrated rewards, [L, L]; NaN where one does not vary.

        The mean of every prompt is one half, so this is the correlation within prompts.
        """
        centered = self._scored - 0.5
        with np.errstate(invalid="ignore", divide="ignore"):
            covariance = centered.T @ centered
            scale = np.sqrt(np.diag(covariance))
            return np.asarray(covariance / np.outer(scale, scale))

    @property
    def _scored(self) -> Array:
        return np.asarray(self.calibrated[np.isfinite(self.calibrated).all(axis=1)])


def delta_rewards(prompt: Array, combined: Array, chosen: Array, rejected: Array) -> Array:
    """ΔR (Eq. 8) of every chosen with every rejected sample of the same prompt.

    Args:
        prompt: int [M], ascending.
        combined: float [M], the combined reward.
        chosen: bool [M].
        rejected: bool [M].

    Returns:
        float [n], ordered by chosen, then by rejected sample.
    """
    better, worse = np.flatnonzero(chosen), np.flatnonzero(rejected)
    parts = [np.empty(0)]
    for start in range(0, len(better), CHOSEN_AT_ONCE):
        some = better[start : start + CHOSEN_AT_ONCE]
        first = np.searchsorted(prompt[worse], prompt[some], side="left")
        counts = np.searchsorted(prompt[worse], prompt[some], side="right") - first
        # For every chosen sample, the positions first, first + 1, ..., first + count - 1 in `worse`.
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        partners = worse[np.repeat(first, counts) + offsets]
        parts.append(combined[np.repeat(some, counts)] - combined[partners])
    return np.concatenate(parts)


def _mask(lists: "pa.ListArray", starts: Array) -> Array:
    """Bool [M]: the rows of the samples that are listed for every prompt."""
    marked = np.zeros(int(starts[-1]), dtype=bool)
    first = np.repeat(starts[:-1], _lengths(lists))
    marked[first + lists.flatten().to_numpy(zero_copy_only=False)] = True
    return marked


def _lengths(lists: "pa.ListArray") -> Array:
    return np.asarray(lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)).astype(np.int64)
