"""Write pairs for other trainers: Pick-a-Pic's columns, or a folder of image files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from capo.engine.seeds import stable_seed
from capo.images.folders import METADATA, PAIRS
from capo.images.plain_files import file_suffix, json_line

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP_BYTES = 1 << 27
"""Bytes of images in a row group before they are encoded, which bounds the memory."""

Images = Mapping[tuple[str, int], bytes]
"""Image files by prompt and sample."""


@dataclass(frozen=True)
class Pair:
    """A chosen and a rejected sample of a prompt."""

    prompt_id: str
    caption: str
    chosen: int
    rejected: int
    delta_reward: float
    """In (0, 1]."""


class PairWriter(Protocol):
    """Writes pairs into an empty folder, part by part; all pairs of a prompt are in one part."""

    def __init__(self, folder: Path, parts: int, model: str) -> None:
        """`model` names what made the images."""

    def write(self, pairs: Sequence[Pair], images: Images) -> None:
        """Write the next part."""


class PickAPicWriter:
    """Writes `data/train-*.parquet` with the columns of Pick-a-Pic, plus `delta_reward`.

    The order of the two images means nothing, as in Pick-a-Pic: a digest of the pair decides it.
    """

    def __init__(self, folder: Path, parts: int, model: str) -> None:
        self._folder, self._parts, self._model = folder / "data", parts, model
        self._folder.mkdir()
        self._part = 0

    def write(self, pairs: Sequence[Pair], images: Images) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = pick_a_pic_columns()
        path = self._folder / f"train-{self._part:05d}-of-{self._parts:05d}.parquet"
        # A dictionary holds an image once per row group and column, however many pairs it is in.
        form = {"compression": "zstd", "dictionary_pagesize_limit": 2 * ROW_GROUP_BYTES}
        with pq.ParquetWriter(path, columns, **form) as writer:
            for group in _row_groups(pairs, images):
                rows = [self._row(pair, images) for pair in group]
                writer.write_batch(pa.RecordBatch.from_pylist(rows, columns))
        self._part += 1

    def _row(self, pair: Pair, images: Images) -> dict[str, Any]:
        samples = [pair.chosen, pair.rejected]
        if stable_seed("order", pair.prompt_id, *samples) % 2:
            samples.reverse()
        row: dict[str, Any] = {
            "are_different": True,
            "best_image_uid": f"{pair.prompt_id}-{pair.chosen}",
            "caption": pair.caption,
            "has_label": True,
            "delta_reward": pair.delta_reward,
        }
        for side, sample in enumerate(samples):
            row |= {
                f"image_{side}_uid": f"{pair.prompt_id}-{sample}",
                f"jpg_{side}": images[pair.prompt_id, sample],
                f"label_{side}": float(sample == pair.chosen),
                f"model_{side}": self._model,
            }
        return row


def pick_a_pic_columns() -> "pa.Schema":
    """Return the columns that Pick-a-Pic has and capo reads, plus `delta_reward`."""
    import pyarrow as pa

    return pa.schema(
        {
            "are_different": pa.bool_(),
            "best_image_uid": pa.string(),
            "caption": pa.string(),
            "has_label": pa.bool_(),
            "image_0_uid": pa.string(),
            "image_1_uid": pa.string(),
            "jpg_0": pa.binary(),
            "jpg_1": pa.binary(),
            "label_0": pa.float64(),
            "label_1": pa.float64(),
            "model_0": pa.string(),
            "model_1": pa.string(),
            "delta_reward": pa.float64(),
        }
    )


class FolderWriter:
    """Writes every image file once, captions in `metadata.jsonl`, and `pairs.jsonl`."""

    def __init__(self, folder: Path, parts: int, model: str) -> None:
        self._folder, self._model = folder, model
        (folder / "images").mkdir()

    def write(self, pairs: Sequence[Pair], images: Images) -> None:
        names: dict[tuple[str, int], str] = {}
        with (self._folder / PAIRS).open("a", encoding="utf-8") as lines:
            for pair in pairs:
                keys = [(pair.prompt_id, sample) for sample in (pair.chosen, pair.rejected)]
                names |= {key: f"images/{key[0]}-{key[1]}.{file_suffix(images[key])}" for key in keys}
                chosen, rejected = (names[key] for key in keys)
                row = {"caption": pair.caption, "chosen": chosen, "rejected": rejected}
                lines.write(json_line(row | {"delta_reward": pair.delta_reward}))
        captions = {pair.prompt_id: pair.caption for pair in pairs}
        with (self._folder / METADATA[0]).open("a", encoding="utf-8") as lines:
            for (prompt_id, sample), name in names.items():
                (self._folder / name).write_bytes(images[prompt_id, sample])
                lines.write(json_line({"file_name": name, "text": captions[prompt_id], "model": self._model}))


PAIR_WRITERS: dict[str, type[PairWriter]] = {"pick-a-pic": PickAPicWriter, "folder": FolderWriter}
"""Writers by `--layout`."""


def _row_groups(pairs: Sequence[Pair], images: Images) -> Iterator[list[Pair]]:
    """Split pairs, in order, into groups of at most `ROW_GROUP_BYTES` of images, or of a single pair."""
    group: list[Pair] = []
    used = 0
    for pair in pairs:
        size = sum(len(images[pair.prompt_id, sample]) for sample in (pair.chosen, pair.rejected))
        if group and used + size > ROW_GROUP_BYTES:
            yield group
            group, used = [], 0
        group.append(pair)
        used += size
    if group:
        yield group
