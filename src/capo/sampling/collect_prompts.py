"""The first stage: the prompts that samples are made for."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from capo.engine.seeds import stable_seed
from capo.images import ExchangeError, open_images
from capo.prompts import Prompt, collect_prompts
from capo.recipe import ImagesSection, Recipe
from capo.store.run_directory import Artifact, Run

if TYPE_CHECKING:
    import pyarrow as pa


def prompts(recipe: Recipe, run: Run, artifact: Artifact) -> None:
    """Write `prompts.parquet`, each text once, or the captions of the images that are there already."""
    if recipe.images is not None:
        _captions(recipe, recipe.images, artifact)
        return
    found, duplicates = collect_prompts(recipe.prompts, recipe.seed)
    artifact.write_table("prompts.parquet", prompt_table(found))
    artifact.commit({"prompts": len(found), "duplicates": duplicates})


def _captions(recipe: Recipe, images: ImagesSection, artifact: Artifact) -> None:
    source = open_images(images)
    ids = [entry.prompt.prompt_id for entry in source.entries]
    count = recipe.prompts.count
    if count is not None and count > len(ids):
        raise ExchangeError(f"prompts.count asks for {count}, and the images have {len(ids)} prompts")
    drawn = set(sorted(ids, key=lambda each: stable_seed("prompts", recipe.seed, each))[:count])
    kept = [entry for entry in source.entries if entry.prompt.prompt_id in drawn]
    artifact.write_table("prompts.parquet", prompt_table([entry.prompt for entry in kept]))
    summary = {"prompts": len(kept), "images": sum(len(entry.images) for entry in kept)}
    artifact.commit(summary | {"without_caption": source.without_caption})


def prompt_table(prompts: Sequence[Prompt]) -> "pa.Table":
    """A row a prompt: prompt_id, text, category (may be null), metadata (JSON)."""
    import pyarrow as pa

    return pa.table(
        {
            "prompt_id": [p.prompt_id for p in prompts],
            "text": [p.text for p in prompts],
            "category": pa.array([p.category for p in prompts], pa.string()),
            "metadata": [json.dumps(p.metadata, sort_keys=True) for p in prompts],
        }
    )


def read_prompts(run: Run) -> list[Prompt]:
    """The prompts of a run, in order."""
    rows = run.artifact("prompts").read_table("prompts.parquet").to_pylist()
    return [Prompt(**row | {"metadata": json.loads(row["metadata"])}) for row in rows]
