"""One reward on its way through the samples of a run, shard by shard."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from capo.engine.device import select_device
from capo.engine.progress import say
from capo.images.sample_table import kept_scores
from capo.recipe import Recipe, RewardSection
from capo.rewards import (
    RewardError,
    Scored,
    build_comparison,
    declared_comparison,
    describe_comparison,
    reject_negative,
)
from capo.scoring.rater import Rater, Shard
from capo.scoring.score_table import check_missing, finished, score_table, score_values
from capo.store import Artifact

if TYPE_CHECKING:
    import pyarrow as pa


class Scorer:
    """A reward, its artifact, and what it has come to so far."""

    def __init__(
        self, recipe: Recipe, artifact: Artifact, section: RewardSection, texts: Mapping[str, str], total: int
    ) -> None:
        self.section = section
        self.seconds = 0.0
        """Spent on this reward alone."""
        self._recipe, self._artifact, self._texts, self._total = recipe, artifact, texts, total
        # What calibration would refuse later is refused here, before hours of scoring.
        self._comparison = build_comparison(section) if section.use == "train" else None
        self._rater = Rater(section, select_device(recipe.engine))
        self._values: list[np.ndarray] = []
        self._gappy: list[pa.Table] = []
        self._truncated: set[str] = set()
        self._tells = False

    def finished(self, name: str) -> "pa.Table | None":
        """The scores of a shard that is there without a gap."""
        return finished(self._artifact, name)

    def known(self, shard: Shard) -> list[Scored | None]:
        """What earlier runs found of a shard, or was found while it was made, row by row."""
        kept = kept_scores(shard.rows, self.section.name)
        if None not in kept:
            return kept
        return [own or other for own, other in zip(kept, self._rater.known(shard), strict=True)]

    def score(self, name: str, shard: Shard, known: Sequence[Scored | None]) -> None:
        """Write the scores of a shard to the file `name`; `known` ones are not made again."""
        with self._clocked():
            table = score_table(shard.rows, self._rater.score(shard, known))
            keys = table["prompt_id"], table["sample"]
            reject_negative(self.section.name, self._comparison, score_values(table), *keys)
            self._artifact.write_table(name, table)
        self.take(table)

    def take(self, table: "pa.Table") -> None:
        """Count the scores of a shard; raises `RewardError` as soon as too many are missing."""
        self._values.append(score_values(table))
        if "truncated" in table.column_names and table["truncated"].null_count < len(table):
            self._tells = True
            self._truncated.update(table.filter(table["truncated"])["prompt_id"].to_pylist())
        if table["score"].null_count:
            self._gappy.append(table)
            check_missing(self.section.name, self._gappy, self._total, self._recipe.pairs.max_skipped)

    def release(self) -> None:
        """Let go of the model."""
        self._rater.release()

    def restart(self) -> None:
        """Without its model, from the first shard on; those that are written are only counted again."""
        self.release()
        self._values, self._gappy, self._truncated = [], [], set()

    def commit(self) -> None:
        """Declare the artifact complete."""
        scores = np.concatenate(self._values)
        present = scores[np.isfinite(scores)]
        if not len(present):
            raise RewardError(f"reward {self.section.name!r} gave no score at all")
        summary = {
            "scored": len(present),
            "missing": len(scores) - len(present),
            "mean": float(present.mean()),
            "std": float(present.std()),
            "comparison": describe_comparison(declared_comparison(self.section)),
        }
        if self._tells:
            summary["truncated_prompts"] = len(self._truncated)
        if self._truncated:
            say(
                f"{self.section.name}: read only the beginning of {len(self._truncated)} of "
                f"{len(self._texts)} prompts, which are longer than it takes"
            )
        self._artifact.commit(summary)

    @contextmanager
    def _clocked(self) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - started
