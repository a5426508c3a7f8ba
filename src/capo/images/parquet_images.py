"""Images in Parquet files: a column of images with captions, or Pick-a-Pic's columns."""

import bisect
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from capo.images.entries import (
    Entry,
    ImagesError,
    caption_column,
    clean_caption,
    comparison_entry,
    group_by_caption,
    read_labels,
)
from capo.prompts.text_rules import text_problem

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.fs import FileSystem
    from pyarrow.parquet import ParquetFile

COMPARED = ("jpg_0", "jpg_1")
"""The two images of a row of Pick-a-Pic."""

LABELS = ("label_0", "label_1", "has_label", "delta_reward")
"""Columns that may say which of the two is better."""

BATCH_ROWS = 16
"""Rows of images in memory while a file is read in order."""


class Cell(NamedTuple):
    """The position of an image: the number of the file, the row in it, and the column."""

    file: int
    row: int
    column: str


class ParquetImages:
    """The images of Parquet files that all have the columns of the first."""

    def __init__(self, system: "FileSystem", paths: Sequence[str], column: str | None) -> None:
        self._system, self._paths, self._column = system, paths, column
        self._reader: _Reader | None = None
        self.without_caption = 0
        names = self._open(0).schema_arrow.names
        self._compared = "label_0" in names and all(image in names for image in COMPARED)
        self._columns = COMPARED if self._compared else (_image_column(self._open(0).schema_arrow, paths[0]),)
        files = range(len(paths))
        self.entries: list[Entry] = (
            [entry for file in files for entry in self._comparisons(file)]
            if self._compared
            else group_by_caption(image for file in files for image in self._images(file))
        )
        if not self.entries:
            raise ImagesError(f"{paths[0]}: no images with captions in {len(paths)} Parquet files")

    def read(self, place: Cell) -> bytes:
        if self._reader is None or self._reader.file != place.file:
            self._reader = _Reader(place.file, self._open(place.file), self._columns)
        value = self._reader.row(place.row)[place.column]
        data = value["bytes"] if isinstance(value, dict) else value
        if data is None:
            raise ValueError("the row has no image bytes")
        return bytes(data)

    def name(self, place: Cell) -> str:
        return f"{self._paths[place.file]}, row {place.row}, {place.column}"

    def _comparisons(self, file: int) -> Iterator[Entry]:
        for row, caption, values in self._rows(file, LABELS):
            labels = read_labels(values, f"{self._paths[file]}, row {row}")
            cells = Cell(file, row, COMPARED[0]), Cell(file, row, COMPARED[1])
            yield comparison_entry(caption, f"{file}:{row}", cells, labels)

    def _images(self, file: int) -> Iterator[tuple[str, Cell]]:
        for row, caption, _ in self._rows(file, ()):
            yield caption, Cell(file, row, self._columns[0])

    def _rows(self, file: int, further: Sequence[str]) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Yield number, caption and `further` columns of the rows with a usable caption, without images."""
        parquet, path = self._open(file), self._paths[file]
        names = parquet.schema_arrow.names
        column = caption_column(names, self._column, path)
        if missing := [name for name in self._columns if name not in names]:
            raise ImagesError(f"{path}: no column {missing[0]}, which {self._paths[0]} has")
        with _explained(path):
            table = parquet.read(columns=[column, *(name for name in further if name in names)])
            rows = table.to_pylist()
        for row, values in enumerate(rows):
            caption = clean_caption(values[column], f"{path}, row {row}")
            if caption and text_problem(caption) is None:
                yield row, caption, values
            else:
                self.without_caption += 1

    def _open(self, file: int) -> "ParquetFile":
        import pyarrow.parquet as pq

        with _explained(self._paths[file]):
            return pq.ParquetFile(self._paths[file], filesystem=self._system)


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Raise errors of the library as `ImagesError` with the file's name."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ImagesError(f"{path}: not readable as Parquet: {error}") from error


class _Reader:
    """Reads a file's rows of images in any order, a few at a time; fast only forward."""

    def __init__(self, file: int, parquet: "ParquetFile", columns: Sequence[str]) -> None:
        self.file = file
        self._parquet, self._columns = parquet, columns
        metadata = parquet.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = [0, *itertools.accumulate(sizes)]
        self._current = self._first = -1
        self._batch: list[dict[str, Any]] = []
        self._batches: Iterator[pa.RecordBatch] = iter(())

    def row(self, row: int) -> dict[str, Any]:
        group = bisect.bisect_right(self._starts, row) - 1
        if group != self._current or row < self._first:
            self._rewind(group)
        while row >= self._first + len(self._batch):
            self._first += len(self._batch)
            self._batch = self._next_rows()
        return self._batch[row - self._first]

    def _next_rows(self) -> list[dict[str, Any]]:
        """Return the next rows; raises `ValueError` for damaged ones, also when asked again."""
        import pyarrow as pa

        try:
            return next(self._batches).to_pylist()
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            self._current = -1  # the rows after an error are not read: start again
            raise ValueError(f"damaged rows: {error}") from error
        except StopIteration:
            self._current = -1
            raise ValueError("the file has fewer rows than its footer says") from None

    def _rewind(self, group: int) -> None:
        """Start at a row group, the unit that Parquet can seek to."""
        self._current, self._first = group, self._starts[group]
        self._batch = []
        self._batches = self._parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=[*self._columns])


def _image_column(schema: "pa.Schema", path: str) -> str:
    """Return the column called `image`, else the only column of bytes."""
    import pyarrow.types as types

    def holds_images(field: "pa.Field") -> bool:
        inner = field.type.field("bytes").type if _is_image_feature(field) else field.type
        return bool(types.is_binary(inner) or types.is_large_binary(inner))

    columns = [field.name for field in schema if holds_images(field)]
    if "image" in columns:
        return "image"
    if len(columns) != 1:
        raise ImagesError(
            f"{path}: {'several columns hold' if columns else 'no column holds'} images, of "
            f"{', '.join(schema.names)}; name the one to use image"
        )
    return columns[0]


def _is_image_feature(field: "pa.Field") -> bool:
    """Return whether a column is an image feature of `datasets` and the Hub."""
    import pyarrow.types as types

    return bool(types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
