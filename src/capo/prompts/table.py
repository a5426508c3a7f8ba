"""`prompts.parquet`: one row per prompt."""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from capo.prompts.prompt import Prompt
from capo.store import Run

if TYPE_CHECKING:
    import pyarrow as pa


ROWS_AT_ONCE = 1 << 12
"""Rows that are Python objects at the same time."""


def prompt_table(prompts: Sequence[Prompt]) -> "pa.Table":
    """Return the columns prompt_id, text, category (may be null) and metadata (JSON)."""
    import pyarrow as pa

    return pa.table(
        {
            "prompt_id": [p.prompt_id for p in prompts],
            "text": [p.text for p in prompts],
            "category": pa.array([p.category for p in prompts], pa.string()),
            "metadata": [json.dumps(p.metadata, sort_keys=True) for p in prompts],
        }
    )


def read_prompt_ids(run: Run) -> list[str]:
    """Return the ids of the prompts of a run, in order."""
    ids: list[str] = (
        run.artifact("prompts").read_table("prompts.parquet", ["prompt_id"])["prompt_id"].to_pylist()
    )
    return ids


def read_prompts(run: Run) -> list[Prompt]:
    """Return the prompts of a run, in order."""
    batches = run.artifact("prompts").read_table("prompts.parquet").to_batches(ROWS_AT_ONCE)
    return [
        Prompt(**row | {"metadata": json.loads(row["metadata"])})
        for batch in batches
        for row in batch.to_pylist()
    ]


def stream_texts(run: Run) -> Iterator[str]:
    """Yield the texts of the prompts of a run, in order."""
    table = run.artifact("prompts").read_table("prompts.parquet", ["text"])
    for batch in table.to_batches(ROWS_AT_ONCE):
        yield from batch["text"].to_pylist()
