"""Sets of images that have one table of scores per reward: those of validation and evaluation.

IMAGES/shard-00000.parquet               the images, as samples are stored
SCORES/REWARD.parquet                    their scores, one row per image
parts/REWARD/IMAGES/shard-00000.parquet  the scores of one shard; removed once the sets are scored
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from capo.engine.shard_work import Executor
from capo.images.shard_files import shard_path
from capo.prompts import Prompt
from capo.recipe import EngineSection, RewardSection
from capo.scoring.score_shards import ImageShard, ScoreFiles, image_shards, score_shards
from capo.scoring.score_table import Gaps, has_all_scores, score_matrix
from capo.store import Artifact

PARTS = "parts"


@dataclass(frozen=True)
class ImageSet:
    """One model's images of some prompts, and where their scores are."""

    artifact: Artifact
    images: str
    """The folder with the shards."""
    scores: str
    """The folder with the table of every reward."""
    count: int | None = None
    """The number of shards, of which some may be missing; None if those that exist are all."""

    @cached_property
    def shards(self) -> list[ImageShard]:
        """Its shards, in order."""
        if self.count is None:
            return image_shards(self.artifact, self.images)
        return [ImageShard(self.artifact, shard_path(self.images, n)) for n in range(self.count)]

    def table_path(self, reward: str) -> str:
        """The path of a reward's scores in the artifact."""
        return f"{self.scores}/{reward}.parquet"

    def read_scores(self, reward: str, prompt_ids: Sequence[str], samples: int) -> np.ndarray:
        """A reward's scores, float64 [P, K], NaN where one is missing."""
        return score_matrix(self.artifact.read_table(self.table_path(reward)), prompt_ids, samples)


def score_image_sets(
    executor: Executor,
    sets: Sequence[ImageSet],
    rewards: Sequence[RewardSection],
    prompts: Sequence[Prompt],
    engine: EngineSection,
    title: str,
) -> None:
    """Write every reward's table of scores for every set, resuming shard by shard.

    Missing scores stay missing. `title` starts the names of the progress bars.
    """
    lacking = [r for r in rewards if any(not s.artifact.has(s.table_path(r.name)) for s in sets)]
    if lacking:
        texts = {prompt.prompt_id: prompt.text for prompt in prompts}
        shards = [shard for images in sets for shard in images.shards]
        tables = [_WholeTables(reward, sets) for reward in lacking]
        score_shards(executor, shards, tables, texts, engine, title)
    for artifact in {images.artifact for images in sets}:
        if artifact.has(PARTS):
            artifact.remove(PARTS)


class _WholeTables:
    """A destination of the scoring loop that joins the tables of a reward's shards, set by set."""

    def __init__(self, section: RewardSection, sets: Sequence[ImageSet]) -> None:
        self.files = ScoreFiles(section, None, f"{PARTS}/{section.name}/")
        self._sets = sets
        self._joined = {
            shard.path
            for images in sets
            if images.artifact.has(images.table_path(section.name))
            for shard in images.shards
        }

    def has(self, shard: ImageShard) -> bool:
        return shard.path in self._joined or has_all_scores(shard.artifact, self._part(shard))

    def add(self, gaps: Gaps) -> None:
        """Accept missing scores, which are left out of the results and counted there."""

    def finish(self) -> None:
        import pyarrow as pa

        for images in self._sets:
            if not images.artifact.has(path := images.table_path(self.files.reward.name)):
                tables = [images.artifact.read_table(self._part(shard)) for shard in images.shards]
                images.artifact.write_table(path, pa.concat_tables(tables).combine_chunks())

    def _part(self, shard: ImageShard) -> str:
        return f"{self.files.folder}{shard.path}"
