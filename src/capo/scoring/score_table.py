"""Tables of scores, a row a sample: prompt_id, sample, score, error and truncated.

`score` is null where it is missing, and `error` then says why; `truncated` is null for a reward
that does not tell whether it read a prompt to its end.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from capo.rewards import RewardError, Scored
from capo.rewards.rgb_images import decode_image
from capo.scoring.rater import Rater, Shard, image_files
from capo.store import Artifact

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image

REASONS_SHOWN = 3


def read_scores(artifact: Artifact) -> "pa.Table":
    """All scores of a committed score artifact."""
    import pyarrow as pa

    return pa.concat_tables([artifact.read_table(name) for name in artifact.files()])


def finished(artifact: Artifact, name: str) -> "pa.Table | None":
    """The scores of a file that is there without a gap."""
    if not artifact.has(name):
        return None
    table = artifact.read_table(name)
    return None if table["score"].null_count else table


def decode_rows(rows: "pa.Table") -> "list[Image.Image]":
    """The images of a table of samples."""
    return [decode_image(data) for data in image_files(rows)]


def score_rows(
    rater: Rater, rows: "pa.Table", texts: Mapping[str, str], decoded: "list[Image.Image] | None" = None
) -> "pa.Table":
    """The scores of a table of samples, whose images may be `decoded` already."""
    prompts = [texts[prompt_id] for prompt_id in rows["prompt_id"].to_pylist()]
    return score_table(rows, rater.score(Shard(rows, prompts, decoded)))


def score_table(rows: "pa.Table", scored: Sequence[Scored]) -> "pa.Table":
    """`scored` as a table, with the keys of `rows`."""
    import pyarrow as pa

    return pa.table(
        {
            "prompt_id": rows["prompt_id"],
            "sample": rows["sample"],
            "score": pa.array([each.score for each in scored], pa.float64()),
            "error": pa.array([each.error for each in scored], pa.string()),
            "truncated": pa.array([each.truncated for each in scored], pa.bool_()),
        }
    )


def score_values(table: "pa.Table") -> np.ndarray:
    """float64 [n], NaN where the score is missing."""
    return table["score"].to_numpy().astype(np.float64)


def check_missing(name: str, tables: "Sequence[pa.Table]", total: int, limit: float) -> None:
    """Raise `RewardError` if `tables` lack the scores of over `limit` of all `total` samples."""
    missing = sum(table["score"].null_count for table in tables)
    if missing <= limit * total:
        return
    gaps = [row for table in tables for row in table.filter(table["score"].is_null()).to_pylist()]
    reasons = [f"  prompt {r['prompt_id']}, sample {r['sample']}: {r['error']}" for r in gaps[:REASONS_SHOWN]]
    raise RewardError(
        "\n".join(
            [
                f"reward {name!r} gave no score for {missing} of {total} samples, more than "
                f"pairs.max_skipped = {limit:g} allows; the first:",
                *reasons,
            ]
        )
    )
