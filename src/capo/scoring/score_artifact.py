"""The artifact `scores/REWARD`: one reward's scores of all samples, a table for every shard of them."""

from typing import TYPE_CHECKING

import numpy as np

from capo.engine.progress import say
from capo.recipe import RewardSection
from capo.rewards import (
    RewardError,
    build_comparison,
    declared_comparison,
    describe_comparison,
    reject_negative,
)
from capo.scoring.score_shards import ImageShard
from capo.scoring.score_table import check_missing, has_all_scores, read_scores, score_values
from capo.store import Artifact

if TYPE_CHECKING:
    import pyarrow as pa


class ScoreArtifact:
    """A destination of the scoring loop that commits the artifact of one reward."""

    def __init__(
        self, section: RewardSection, artifact: Artifact, *, samples: int, prompts: int, max_missing: float
    ) -> None:
        """Raises `RewardError` for a training reward without a comparison: before scoring, not after it.

        `max_missing` is the largest share of the `samples` that may lack a score.
        """
        self.section = section
        self._artifact = artifact
        self._samples, self._prompts, self._max_missing = samples, prompts, max_missing
        self._comparison = build_comparison(section) if section.use == "train" else None
        self._gaps: dict[str, pa.Table] = {}

    def has(self, shard: ImageShard) -> bool:
        return has_all_scores(self._artifact, shard.path)

    def write(self, shard: ImageShard, table: "pa.Table") -> None:
        """Raises `RewardError` for scores that cannot be compared, and when too many are missing."""
        keys = table["prompt_id"], table["sample"]
        reject_negative(self.section.name, self._comparison, score_values(table), *keys)
        self._artifact.write_table(shard.path, table)
        if table["score"].null_count:
            self._gaps[shard.path] = table
            check_missing(self.section.name, self._gaps.values(), self._samples, self._max_missing)

    def finish(self) -> None:
        """Commit the artifact; raises `RewardError` when it has no score at all."""
        table = read_scores(self._artifact)
        scores = score_values(table)
        present = scores[np.isfinite(scores)]
        if not len(present):
            raise RewardError(f"reward {self.section.name!r} returned no score for any image")
        summary = {
            "scored": len(present),
            "missing": len(scores) - len(present),
            "mean": float(present.mean()),
            "std": float(present.std()),
            "comparison": describe_comparison(declared_comparison(self.section)),
        }
        if table["truncated"].null_count < len(table):
            truncated = len(table.filter(table["truncated"])["prompt_id"].unique())
            summary["truncated_prompts"] = truncated
            if truncated:
                say(
                    f"{self.section.name}: {truncated} of {self._prompts} prompts are longer than it can "
                    "read; it scored images by the beginning of these prompts"
                )
        self._artifact.commit(summary)
