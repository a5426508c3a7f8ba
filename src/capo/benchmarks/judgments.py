"""Judgments on a benchmark's images, shard by shard: one JSON object per image."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from capo.benchmarks.artifacts import JUDGMENTS, Side, artifact_name
from capo.benchmarks.definition import FAILED, JudgeImages, Row
from capo.benchmarks.setup import set_up
from capo.engine.device import select_device
from capo.engine.shard_work import Workplace
from capo.prompts import Prompt
from capo.recipe import BenchmarkSection, EngineSection
from capo.scoring.decoded_images import DecodedImages
from capo.scoring.measure_shards import Measure, measure_shards
from capo.scoring.score_shards import image_shards
from capo.store import Run
from capo.store.step import Job

if TYPE_CHECKING:
    import pyarrow as pa

ADDED = ("prompt", "image", "category")
"""Fields of a row that are added to a judgment."""

SHARDS = "shards"
"""The folder with the judgments on shards, until they are joined."""


def make_judgments(section: BenchmarkSection, side: Side, job: Job) -> None:
    """Judge one model's images, resuming shard by shard, and commit the judgments."""
    artifact, prompts = job.artifact, set_up(section).load_prompts(job.recipe.seed)
    if not artifact.has(JUDGMENTS):
        shards = image_shards(job.run.artifact(artifact_name(section.name, "images", side)))
        load = _Load(section, prompts, job.recipe.engine)
        title = f"benchmark {section.name}: judge {side}"
        tables = measure_shards(job.executor, shards, load, (artifact, SHARDS), title)
        rows = [json.loads(row) for table in tables for row in table["row"].to_pylist()]
        artifact.write_json_lines(JUDGMENTS, rows)
    artifact.remove(SHARDS)
    rows = artifact.read_json_lines(JUDGMENTS)
    artifact.commit({"judged": len(rows), "failed": sum(FAILED in row for row in rows)})


def judged_rows(run: Run, section: BenchmarkSection, side: Side) -> list[Row]:
    """Return the rows of one model, by prompt, then image."""
    artifact = run.artifact(artifact_name(section.name, "judgments", side))
    return list(artifact.read_json_lines(JUDGMENTS))


@dataclass(frozen=True)
class _Load:
    """Loads the judge in the process of a worker. Picklable."""

    section: BenchmarkSection
    prompts: Sequence[Prompt]
    engine: EngineSection

    def __call__(self, place: Workplace) -> Measure:
        judge = set_up(self.section).judge
        numbers = {prompt.prompt_id: number for number, prompt in enumerate(self.prompts)}
        loaded = judge.load(select_device(self.engine))
        return partial(_judged, judge.name, loaded, self.prompts, numbers)


def _judged(
    name: str,
    judge: JudgeImages,
    prompts: Sequence[Prompt],
    numbers: Mapping[str, int],
    rows: "pa.Table",
    images: DecodedImages,
) -> "pa.Table":
    """Return the rows of a shard as JSON; raises `ValueError` naming the judge for what are no judgments."""
    import pyarrow as pa

    places = [numbers[prompt_id] for prompt_id in rows["prompt_id"].to_pylist()]
    judgments = judge(images[:], [prompts[place] for place in places])
    if len(judgments) != len(places):
        raise ValueError(f"the judge {name} returned {len(judgments)} judgments on {len(places)} images")
    keys = zip(places, rows["sample"].to_pylist(), strict=True)
    texts = [
        _row(name, place, sample, prompts[place].category, judgment)
        for (place, sample), judgment in zip(keys, judgments, strict=True)
    ]
    return pa.table({"row": pa.array(texts, pa.string())})


def _row(name: str, number: int, sample: int, category: str | None, judgment: Any) -> str:
    """Return a row as JSON."""
    where = f"the judge {name}, on image {sample} of prompt {number}"
    if not isinstance(judgment, Mapping) or not judgment:
        raise ValueError(f"{where}: returned {judgment!r}, not a judgment")
    if taken := [field for field in ADDED if field in judgment]:
        raise ValueError(f"{where}: the judgment has {', '.join(taken)}, which are added to it")
    row = {"prompt": number, "image": sample, "category": category, **judgment}
    try:
        return json.dumps(row, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}; return failed(...) for an image without judgment") from error
