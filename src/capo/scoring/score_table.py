"""Tables of scores, one row per image: prompt_id, sample, score, error, and truncated.

`score` is null where it is missing, and `error` then gives the reason. `truncated` is null for rewards that
do not report whether they read a prompt to its end.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from capo.rewards import RewardError, Scored
from capo.rewards.rgb_images import decode_image
from capo.scoring.rater import image_files
from capo.store import Artifact, WorkspaceError

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image

COLUMNS = {
    "prompt_id": "string",
    "sample": "int32",
    "score": "double",
    "error": "string",
    "truncated": "bool",
}
"""Names and types."""

REASONS_LISTED = 3

SHARDS_AT_ONCE = 256
"""Tables in memory while all scores are read; every look-up of prompts then serves many rows."""


def score_table(rows: "pa.Table", scored: Sequence[Scored]) -> "pa.Table":
    """Return `scored` as a table, with prompt_id and sample of `rows`."""
    import pyarrow as pa

    return pa.table(
        {
            "prompt_id": rows["prompt_id"],
            "sample": rows["sample"],
            "score": pa.array([row.score for row in scored], pa.float64()),
            "error": pa.array([row.error for row in scored], pa.string()),
            "truncated": pa.array([row.truncated for row in scored], pa.bool_()),
        }
    )


def read_scores(artifact: Artifact, columns: list[str] | None = None) -> "pa.Table":
    """Read all scores of an artifact `scores/REWARD`, or some of their columns."""
    import pyarrow as pa

    return pa.concat_tables([artifact.read_table(path, columns) for path in artifact.files()])


def stream_scores(artifact: Artifact, columns: list[str]) -> "Iterator[pa.Table]":
    """Yield some columns of all scores of an artifact `scores/REWARD`, a limited number of shards at once."""
    import pyarrow as pa

    paths = artifact.files()
    for start in range(0, len(paths), SHARDS_AT_ONCE):
        some = paths[start : start + SHARDS_AT_ONCE]
        yield pa.concat_tables([artifact.read_table(path, columns) for path in some])


def has_all_scores(artifact: Artifact, path: str) -> bool:
    """Report whether a table of scores exists and is complete.

    Raises `WorkspaceError` when the file is damaged: its pages carry checksums, its columns are known.
    """
    if not artifact.has(path):
        return False
    table = artifact.read_table(path)
    columns = {field.name: str(field.type) for field in table.schema}
    if columns != COLUMNS:
        raise WorkspaceError(
            f"{artifact.folder / path} is damaged (its columns are {columns}); remove it and rerun the same "
            "command to score its images again"
        )
    return table["score"].null_count == 0


def score_values(table: "pa.Table") -> np.ndarray:
    """The scores as float64 [n], NaN where they are missing."""
    return table["score"].to_numpy().astype(np.float64)


def score_matrix(table: "pa.Table", prompt_ids: Sequence[str], samples: int) -> np.ndarray:
    """Scores as float64 [P, samples], NaN where missing, in the order of `prompt_ids`.

    Raises the errors of `score_vector`.
    """
    vector = score_vector(table, prompt_ids, np.full(len(prompt_ids), samples))
    return vector.reshape(len(prompt_ids), samples)


def score_vector(table: "pa.Table", prompt_ids: Sequence[str], counts: np.ndarray) -> np.ndarray:
    """Scores as float64 [S], NaN where missing, by prompt in the order of `prompt_ids`, then by sample.

    Raises `WorkspaceError` unless the table has every one of the `counts` [P] samples of all prompts once.
    """
    vector = np.empty(int(counts.sum()))
    with filling(vector, prompt_ids, counts) as add:
        add(table)
    return vector


@contextmanager
def filling(
    vector: np.ndarray, prompt_ids: Sequence[str], counts: np.ndarray
) -> "Iterator[Callable[[pa.Table], None]]":
    """Yield a function that puts the scores of a table in their places in `vector`, as in `score_vector`.

    On leaving, raises `WorkspaceError` unless the tables have every sample of all prompts once.
    """
    starts, present = np.cumsum(counts) - counts, np.zeros(len(vector), dtype=bool)
    rows = 0

    def add(table: "pa.Table") -> None:
        nonlocal rows
        rows += len(table)
        row, known = _prompt_rows(table, prompt_ids)
        column = table["sample"].to_numpy()
        known &= (column >= 0) & (column < counts[row])
        place = (starts[row] + column)[known]
        present[place] = True
        vector[place] = score_values(table)[known]

    yield add
    # With as many rows as samples, all samples are present only if none repeats and none is unknown.
    if rows != len(vector) or not present.all():
        raise WorkspaceError(
            f"the table of {rows} scores does not match the {len(vector)} samples of {len(prompt_ids)} "
            "prompts; run the score stage again with --force"
        )


def count_samples(tables: "Iterable[pa.Table]", prompt_ids: Sequence[str]) -> np.ndarray:
    """The number of samples that tables have of every prompt, int [P]."""
    counts = np.zeros(len(prompt_ids), dtype=np.int64)
    for table in tables:
        row, known = _prompt_rows(table, prompt_ids)
        counts += np.bincount(row[known], minlength=len(prompt_ids))
    return counts


def decode_rows(rows: "pa.Table") -> "list[Image.Image]":
    """The images of a table of samples."""
    return [decode_image(data) for data in image_files(rows)]


@dataclass(frozen=True)
class Gaps:
    """Missing scores: their number, and the rows of the first ones, with their reasons."""

    count: int
    rows: Sequence[Mapping[str, Any]]

    def __add__(self, other: "Gaps") -> "Gaps":
        return Gaps(self.count + other.count, [*self.rows, *other.rows][:REASONS_LISTED])


def find_gaps(table: "pa.Table") -> Gaps:
    """Return the missing scores of a table."""
    missing = table.filter(table["score"].is_null())
    return Gaps(len(missing), missing.slice(0, REASONS_LISTED).to_pylist())


def check_missing(reward: str, gaps: Gaps, total: int, limit: float) -> None:
    """Raise `RewardError` if more than the share `limit` of `total` scores are missing."""
    if gaps.count <= limit * total:
        return
    reasons = [
        f"  prompt {row['prompt_id']}, sample {row['sample']}: {row['error']}"
        for row in gaps.rows[:REASONS_LISTED]
    ]
    summary = (
        f"reward {reward!r} gave no score for {gaps.count} of {total} samples, more than pairs.max_skipped = "
        f"{limit:g} allows; the first ones:"
    )
    raise RewardError("\n".join([summary, *reasons]))


def _prompt_rows(table: "pa.Table", prompt_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """For every row, the index of its prompt in `prompt_ids` (0 if absent), and whether it is present."""
    import pyarrow as pa
    import pyarrow.compute as pc

    row = pc.index_in(table["prompt_id"], value_set=pa.array(prompt_ids, pa.string())).to_numpy()
    known = np.isfinite(row.astype(np.float64))
    return np.where(known, row, 0).astype(np.int64), known
