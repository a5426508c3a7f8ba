"""Images that the evaluation of the same run has made already: same model, settings, prompt, and noise."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from capo.benchmarks.artifacts import TUNED, Side
from capo.engine.progress import say
from capo.evaluation.baseline import evaluated_model_inputs
from capo.evaluation.candidates import candidate_identity
from capo.evaluation.model_images import BASE, IMAGES
from capo.images.shard_files import read_samples, shard_path
from capo.prompts import Prompt
from capo.recipe import BenchmarkSection
from capo.store import Artifact
from capo.store.manifest import differences
from capo.store.step import Job

if TYPE_CHECKING:
    import pyarrow as pa

SEED_KEY = BASE.seed_key
"""Begins the keys of image seeds, as in an evaluation."""


def take_evaluated(
    section: BenchmarkSection, side: Side, job: Job, prompts: Sequence[Prompt], images: int
) -> None:
    """Write the missing shards of which the evaluation has all images; the others are left to be sampled."""
    source, size = _source(section, side, job), job.recipe.generate.shard_prompts
    parts = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    missing = [number for number in range(len(parts)) if not job.artifact.has(shard_path("", number))]
    if source is None or not missing:
        return
    tables = _by_prompt(source, f"{IMAGES}/{side}", {p.prompt_id for p in prompts}, images)
    taken = [number for number in missing if all(prompt.prompt_id in tables for prompt in parts[number])]
    for number in taken:
        import pyarrow as pa

        table = pa.concat_tables([tables[prompt.prompt_id] for prompt in parts[number]]).combine_chunks()
        job.artifact.write_table(shard_path("", number), table)
    if taken:
        say(f"{job.artifact.name}: {len(taken)} of {len(parts)} shards are images of the evaluation")


def _source(section: BenchmarkSection, side: Side, job: Job) -> Artifact | None:
    """Return the artifact with images of the same model and settings; None if there is none."""
    own = section.model if side == TUNED else section.against
    artifact = job.run.artifact("evaluate" if side == TUNED else "baseline")
    if own is not None or not artifact.done:
        return None
    recipe = job.recipe
    wanted = evaluated_model_inputs(recipe)
    field = "evaluate.policy" if side == TUNED else "evaluate.against"
    value = recipe.evaluate.policy if side == TUNED else recipe.evaluate.against
    if value is not None:
        wanted[f"{field}.content"] = candidate_identity(field, value)
    elif side == TUNED:
        wanted["@train"] = job.run.artifact("train").digest
    begun = artifact.begun() or {}
    return None if differences({name: begun.get(name) for name in wanted}, wanted) else artifact


def _by_prompt(source: Artifact, folder: str, wanted: set[str], images: int) -> "dict[str, pa.Table]":
    """Return the rows of the first images of every wanted prompt that has as many."""
    import pyarrow.compute as pc

    tables: dict[str, pa.Table] = {}
    for table in read_samples(source, folder):
        first = table.filter(pc.less(table["sample"], images))
        for prompt_id in wanted & set(first["prompt_id"].to_pylist()):
            rows = first.filter(pc.equal(first["prompt_id"], prompt_id))
            if len(rows) == images:
                tables[prompt_id] = rows
    return tables
