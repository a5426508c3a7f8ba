"""The first stage: the prompts that samples are made for."""

import json

from capo.prompts import Prompt, distinct, read_source
from capo.recipe import Recipe
from capo.workspace import Artefact, Run


def prompts(recipe: Recipe, run: Run, artefact: Artefact) -> None:
    """Write `prompts.parquet`: prompt_id, text, category (may be null), metadata (JSON)."""
    import pyarrow as pa

    found = read_source(recipe.prompts, recipe.seed)
    kept = distinct(found)
    columns = {
        "prompt_id": [p.prompt_id for p in kept],
        "text": [p.text for p in kept],
        "category": pa.array([p.category for p in kept], pa.string()),
        "metadata": [json.dumps(p.metadata, sort_keys=True) for p in kept],
    }
    artefact.write_table("prompts.parquet", pa.table(columns))
    artefact.commit({"prompts": len(kept), "duplicates": len(found) - len(kept)})


def read_prompts(run: Run) -> list[Prompt]:
    """The prompts of a run, in order."""
    rows = run.artefact("prompts").read_table("prompts.parquet").to_pylist()
    return [Prompt(**row | {"metadata": json.loads(row["metadata"])}) for row in rows]
