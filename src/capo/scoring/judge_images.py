"""A judge's verdicts on shards of images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from capo.engine.shard_work import Executor, Workplace
from capo.prompts import Prompt
from capo.scoring.decoded_images import DecodedImages
from capo.scoring.judging import Judge, load_judge
from capo.scoring.measure_shards import Measure, measure_shards
from capo.scoring.score_shards import ImageShard
from capo.store import Artifact

if TYPE_CHECKING:
    import pyarrow as pa


def judge_images(
    executor: Executor,
    judge: str,
    prompts: Sequence[Prompt],
    shards: Sequence[ImageShard],
    tables: tuple[Artifact, str],
    title: str,
) -> "list[pa.Table]":
    """Return a table for every shard, one row per image: prompt_id, sample, and whether it is correct.

    Resumes with the first shard that has no table. They are kept in a folder of an artifact, both named by
    `tables`, until the caller removes them.
    """
    return measure_shards(executor, shards, _Load(judge, prompts), tables, title)


@dataclass(frozen=True)
class _Load:
    """Loads the judge in the process of a worker. Picklable."""

    judge: str
    prompts: Sequence[Prompt]

    def __call__(self, place: Workplace) -> Measure:
        known = {prompt.prompt_id: prompt for prompt in self.prompts}
        return partial(_verdicts, load_judge(self.judge), known)


def _verdicts(
    judge: Judge, prompts: Mapping[str, Prompt], rows: "pa.Table", images: DecodedImages
) -> "pa.Table":
    import pyarrow as pa

    of_rows = [prompts[prompt_id] for prompt_id in rows["prompt_id"].to_pylist()]
    correct = [bool(verdict) for verdict in judge.verdicts(images, of_rows)]
    return pa.table({"prompt_id": rows["prompt_id"], "sample": rows["sample"], "correct": correct})
