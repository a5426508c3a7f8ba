"""A folder of image files: with `pairs.jsonl`, with `metadata.jsonl` or `.csv`, or one folder a prompt."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from capo.images.entries import Entry, ExchangeError, caption_column, clean, compared, grouped, read_labels
from capo.prompts.files import json_objects, table_rows
from capo.prompts.text_rules import check_text

IMAGES = (".png", ".jpg", ".jpeg", ".webp")
PAIRS, PROMPT = "pairs.jsonl", "prompt.txt"
METADATA = ("metadata.jsonl", "metadata.csv")
"""As `datasets` reads a folder of images: `file_name` and columns."""


class ImageFolder:
    """The images of a folder; places are paths relative to it."""

    def __init__(self, folder: Path, column: str | None) -> None:
        self._folder, self._column = folder, column
        self.without_caption = 0
        self.entries: list[Entry] = list(self._find())
        if not self.entries:
            raise ExchangeError(
                f"{folder}: no images with captions; there must be {PAIRS}, {' or '.join(METADATA)}, Parquet "
                f"files, or a folder of images for each prompt, with the prompt in {PROMPT} or as its name"
            )

    def read(self, place: str) -> bytes:
        return (self._folder / place).read_bytes()

    def name(self, place: str) -> str:
        return place

    def _find(self) -> Iterator[Entry]:
        if (self._folder / PAIRS).is_file():
            return self._pairs(self._folder / PAIRS)
        tables = [self._folder / name for name in METADATA if (self._folder / name).is_file()]
        return iter(grouped(self._listed(tables[0]) if tables else self._folders()))

    def _pairs(self, path: Path) -> Iterator[Entry]:
        for number, row in json_objects(str(path), path.read_bytes()):
            where = f"{path}:{number}"
            if caption := self._caption(row, where):
                chosen, rejected = (self._place(row.get(side), where) for side in ("chosen", "rejected"))
                labels = read_labels({"label_0": 1.0, **row}, where)
                yield compared(caption, str(number), (chosen, rejected), labels)

    def _listed(self, path: Path) -> Iterator[tuple[str, str]]:
        name, data = str(path), path.read_bytes()
        rows = json_objects(name, data) if path.suffix == ".jsonl" else table_rows(name, data, ",")
        for number, row in rows:
            where = f"{path}:{number}"
            if caption := self._caption(row, where):
                yield caption, self._place(row.get("file_name"), where)

    def _folders(self) -> Iterator[tuple[str, str]]:
        for folder in (path for path in _visible(self._folder) if path.is_dir()):
            said = folder / PROMPT
            caption = said.read_text(encoding="utf-8-sig").strip() if said.is_file() else folder.name
            check_text(caption, str(said))
            images = [path for path in _visible(folder) if path.suffix.lower() in IMAGES]
            if not caption:
                self.without_caption += len(images)
                continue
            for path in images:
                yield caption, path.relative_to(self._folder).as_posix()

    def _caption(self, row: Mapping[str, Any], where: str) -> str:
        caption = clean(row[caption_column(list(row), self._column, where)], where)
        check_text(caption, where)
        self.without_caption += not caption
        return caption

    def _place(self, name: Any, where: str) -> str:
        if not isinstance(name, str):
            raise ExchangeError(f"{where}: an image is named {name!r}, not by a path")
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ExchangeError(f"{where}: {name} is outside of the folder")
        if not (self._folder / path).is_file():
            raise ExchangeError(f"{where}: {self._folder / path} is not there")
        return path.as_posix()


def _visible(folder: Path) -> list[Path]:
    """What is in it, in order, but for what is hidden."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
