"""The artifact `scores/REWARD`: one reward's scores of all samples, a table for every shard of them."""

import numpy as np

from capo.engine.progress import say
from capo.recipe import RewardSection
from capo.rewards import (
    RewardError,
    build_comparison,
    declared_comparison,
    describe_comparison,
)
from capo.scoring.score_shards import ImageShard, ScoreFiles
from capo.scoring.score_table import (
    Gaps,
    check_missing,
    has_all_scores,
    score_values,
    stream_scores,
)
from capo.store import Artifact


class ScoreArtifact:
    """A destination of the scoring loop that commits the artifact of one reward."""

    def __init__(
        self, section: RewardSection, artifact: Artifact, *, samples: int, prompts: int, max_missing: float
    ) -> None:
        """Raises `RewardError` for a training reward without a comparison: before scoring, not after it.

        `max_missing` is the largest share of the `samples` that may lack a score.
        """
        compared = section.use == "train"
        if compared:
            build_comparison(section)
        self.files = ScoreFiles(section, artifact.name, "", compared)
        self._artifact = artifact
        self._samples, self._prompts, self._max_missing = samples, prompts, max_missing
        self._gaps = Gaps(0, ())

    def has(self, shard: ImageShard) -> bool:
        return has_all_scores(self._artifact, shard.path)

    def add(self, gaps: Gaps) -> None:
        """Raises `RewardError` when too many scores are missing."""
        self._gaps += gaps
        check_missing(self.files.reward.name, self._gaps, self._samples, self._max_missing)

    def finish(self) -> None:
        """Commit the artifact; raises `RewardError` when it has no score at all."""
        section, parts, reported = self.files.reward, [np.empty(0)], 0
        truncated: set[str] = set()
        for table in stream_scores(self._artifact, ["prompt_id", "score", "truncated"]):
            parts.append(score_values(table))
            reported += len(table) - table["truncated"].null_count
            truncated.update(table.filter(table["truncated"])["prompt_id"].unique().to_pylist())
        scores = np.concatenate(parts)
        present = scores[np.isfinite(scores)]
        if not len(present):
            raise RewardError(f"reward {section.name!r} returned no score for any image")
        summary = {
            "scored": len(present),
            "missing": len(scores) - len(present),
            "mean": float(present.mean()),
            "std": float(present.std()),
            "comparison": describe_comparison(declared_comparison(section)),
        }
        if reported:
            summary["truncated_prompts"] = len(truncated)
        if truncated:
            say(
                f"{section.name}: {len(truncated)} of {self._prompts} prompts are longer than it can "
                "read; it scored images by the beginning of these prompts"
            )
        self._artifact.commit(summary)
