"""Votes as labels: a data set in Pick-a-Pic's columns, on which a run can train."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from capo.images.pair_writers import pick_a_pic_columns
from capo.people.analysis import Judgment
from capo.people.human_study import PAGE, HumanStudy, Key, StudyPair


def write_labels(
    to: Path, folder: Path, study: HumanStudy, key: Key, judged: Sequence[Judgment]
) -> dict[str, int]:
    """Write `data/train-00000-of-00001.parquet` into the folder `to`, a row per pair with votes.

    `judged` are votes on one question. `label_0` and `label_1` are 1 and 0 for the image that most votes
    prefer and the other, 1/2 each if as many prefer either. `delta_reward` is the difference of their
    shares of votes, which is what `images.source` reads as the preference: a share of (1 + delta_reward) / 2.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    votes: dict[str, list[Judgment]] = {}
    for judgment in judged:
        votes.setdefault(judgment.vote.pair, []).append(judgment)
    rows = [_row(pair, key, folder, votes[pair.pair]) for pair in study.pairs if pair.pair in votes]
    (to / "data").mkdir()
    table = pa.Table.from_pylist(rows, pick_a_pic_columns())
    pq.write_table(table, to / "data" / "train-00000-of-00001.parquet", compression="zstd")
    return {"pairs": len(rows), "ties": sum(row["label_0"] == 0.5 for row in rows)}


def _row(pair: StudyPair, key: Key, folder: Path, votes: Sequence[Judgment]) -> dict[str, Any]:
    about = key.pairs[pair.pair]
    left = sum(_for_left(judgment) for judgment in votes) / len(votes)
    label = 0.5 if left == 0.5 else float(left > 0.5)
    best = pair.right if label == 0 else pair.left
    row: dict[str, Any] = {
        "are_different": pair.left.sha256 != pair.right.sha256,
        "best_image_uid": None if label == 0.5 else best.sha256[:32],
        "caption": pair.prompt,
        "has_label": True,
        "delta_reward": abs(2 * left - 1),
    }
    sides = ((pair.left, about.left, label), (pair.right, about.right, 1 - label))
    for side, (image, model, of_side) in enumerate(sides):
        row |= {
            f"image_{side}_uid": image.sha256[:32],
            f"jpg_{side}": (folder / PAGE / image.file).read_bytes(),
            f"label_{side}": of_side,
            f"model_{side}": key.models[model].name,
        }
    return row


def _for_left(judgment: Judgment) -> float:
    return {"left": 1.0, "right": 0.0}.get(judgment.vote.side, 0.5)
