"""A folder of image files.

With `pairs.jsonl`, with `metadata.jsonl` or `.csv`, with a caption file beside every image, or with one
folder per prompt.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from capo.images.entries import (
    Entry,
    ImagesError,
    caption_column,
    clean_caption,
    comparison_entry,
    group_by_caption,
    read_labels,
)
from capo.prompts.files import json_objects, table_rows
from capo.prompts.folder_files import file_problem
from capo.prompts.sidecars import IMAGES, OTHER_IMAGES, PROMPT, SIDECAR, read_caption, sidecars
from capo.prompts.text_rules import check_text

PAIRS = "pairs.jsonl"
METADATA = ("metadata.jsonl", "metadata.csv")
"""Tables of `file_name` and other columns, which `datasets` reads too."""


class ImageFolder:
    """The images of a folder; places are paths relative to it.

    `files` are the folder's usable files, sorted.
    """

    def __init__(self, folder: Path, files: Sequence[Path], column: str | None) -> None:
        self._folder, self._files, self._column = folder, files, column
        self.without_caption = 0
        self.entries: list[Entry] = list(self._read_entries())
        if not self.entries:
            raise ImagesError(
                f"{folder}: no images with captions; expected {PAIRS}, {' or '.join(METADATA)}, Parquet "
                f"files, IMAGE{SIDECAR} beside every image, or a folder of images for each prompt, with the "
                f"prompt in {PROMPT} or as its name"
            )

    def read(self, place: str) -> bytes:
        self._check(self._folder / place, place)  # again, since hours may have passed
        return (self._folder / place).read_bytes()

    def name(self, place: str) -> str:
        return place

    def _read_entries(self) -> Iterator[Entry]:
        if (pairs := self._optional(self._folder / PAIRS)) is not None:
            return self._pairs(pairs)
        for name in METADATA:
            if (table := self._optional(self._folder / name)) is not None:
                return iter(group_by_caption(self._listed(table)))
        return iter(group_by_caption(self._sidecars() or self._folder_a_prompt()))

    def _pairs(self, path: Path) -> Iterator[Entry]:
        for number, row in json_objects(str(path), path.read_bytes()):
            where = f"{path}:{number}"
            if caption := self._caption(row, where):
                chosen, rejected = (self._place(row.get(side), where) for side in ("chosen", "rejected"))
                labels = read_labels({"label_0": 1.0, **row}, where)
                yield comparison_entry(caption, str(number), (chosen, rejected), labels)

    def _listed(self, path: Path) -> Iterator[tuple[str, str]]:
        name, data = str(path), path.read_bytes()
        rows = json_objects(name, data) if path.suffix == ".jsonl" else table_rows(name, data, ",")
        for number, row in rows:
            where = f"{path}:{number}"
            if caption := self._caption(row, where):
                yield caption, self._place(row.get("file_name"), where)

    def _check_formats(self) -> None:
        """Raise `ImagesError` if there are images of formats that are not read."""
        others = [path for path in self._files if path.suffix.lower() in OTHER_IMAGES]
        if others:
            raise ImagesError(_other_format(others[0].relative_to(self._folder).as_posix(), len(others)))

    def _sidecars(self) -> list[tuple[str, str]]:
        """Return captions and images if there is a caption file beside any image; others have no caption."""
        self._check_formats()
        images = sidecars(self._files, IMAGES)
        if not any(images.values()):
            return []
        found = []
        for path, text in images.items():
            caption = read_caption(text) if text else ""
            check_text(caption, str(text), "caption")
            self.without_caption += not caption
            if caption:
                found.append((caption, path.relative_to(self._folder).as_posix()))
        return found

    def _folder_a_prompt(self) -> Iterator[tuple[str, str]]:
        images: dict[Path, list[Path]] = {}
        for path in self._files:
            if path.suffix.lower() in IMAGES and path.parent.parent == self._folder:
                images.setdefault(path.parent, []).append(path)
        for folder, paths in images.items():
            prompt = self._optional(folder / PROMPT)
            caption = folder.name if prompt is None else read_caption(prompt)
            check_text(caption, str(prompt or folder), "caption")
            if not caption:
                self.without_caption += len(paths)
                continue
            for path in paths:
                yield caption, path.relative_to(self._folder).as_posix()

    def _caption(self, row: Mapping[str, Any], where: str) -> str:
        caption = clean_caption(row[caption_column(list(row), self._column, where)], where)
        check_text(caption, where, "caption")
        self.without_caption += not caption
        return caption

    def _place(self, name: Any, where: str) -> str:
        if not isinstance(name, str):
            raise ImagesError(f"{where}: an image is named {name!r}, not by a path")
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ImagesError(f"{where}: {name} is outside the folder")
        if path.suffix.lower() in OTHER_IMAGES:
            raise ImagesError(f"{where}: {_other_format(name, 1)}")
        self._check(self._folder / path, where)
        return path.as_posix()

    def _optional(self, path: Path) -> Path | None:
        """Return `path` if it exists; one that is not a file of the folder is an error."""
        if not path.exists() and not path.is_symlink():
            return None
        self._check(path, str(self._folder))
        return path

    def _check(self, path: Path, where: str) -> None:
        if (problem := file_problem(self._folder, path)) is not None:
            name = path.relative_to(self._folder).as_posix()
            raise ImagesError(f"{where}: {name!r}: {problem}; put a regular file there")


def _other_format(name: str, count: int) -> str:
    more = "" if count == 1 else f" and {count - 1} more"
    return f"{name}{more}: images are read as PNG, JPEG or WebP only; convert or remove other formats"
