"""Prompt files: `.txt` with a prompt a line, or `.jsonl`, `.csv`, `.tsv` with a prompt column.

The prompt column is called `text`, `prompt` or `caption` and the category column `category`, in
any case; the other columns become metadata.
"""

import csv
import json
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TEXT_COLUMNS = ("text", "prompt", "caption")


class PromptsError(ValueError):
    """Prompts that cannot be used; the message names the file and the line."""


@dataclass(frozen=True)
class Row:
    """One prompt as it is in a file."""

    text: str
    category: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def read_file(path: Path) -> list[Row]:
    """All prompts of a file in order; blank lines are skipped, blanks around a prompt dropped.

    UTF-8, with or without a byte-order mark, with any line ends. Raises `PromptsError` for a file
    that is not there, empty, or not text, and for control characters, naming the line.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise PromptsError(f"{path}: prompt files end in {', '.join(_READERS)}")
    rows = []
    for number, row in reader(path, _lines(path)):
        if row.text:
            _check(row.text, f"{path}:{number}")
            rows.append(row)
    if not rows:
        raise PromptsError(f"{path}: no prompt in it")
    return rows


def _lines(path: Path) -> list[str]:
    try:
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise PromptsError(f"{path}: {error.strerror}; prompts.source is a file or shapes:SPLIT") from error
    lines = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        try:
            lines.append(line.removesuffix(b"\r").decode("utf-8"))
        except UnicodeDecodeError as error:
            raise PromptsError(f"{path}:{number}: not UTF-8 ({error.reason})") from error
    return lines


def _check(text: str, where: str) -> None:
    for character in text:
        # Cs are lone surrogates, which JSON can spell and no tokenizer can take.
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n":
            raise PromptsError(f"{where}: control character U+{ord(character):04X} in the prompt")


def _plain(path: Path, lines: list[str]) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(lines, start=1):
        yield number, Row(line.strip())


def _json_lines(path: Path, lines: list[str]) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            raise PromptsError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(values, dict):
            raise PromptsError(f"{path}:{number}: a line is a JSON object")
        yield number, _row(values, f"{path}:{number}")


def _columns(delimiter: str) -> Callable[[Path, list[str]], Iterator[tuple[int, Row]]]:
    def read(path: Path, lines: list[str]) -> Iterator[tuple[int, Row]]:
        reader = csv.DictReader((line + "\n" for line in lines), delimiter=delimiter, strict=True)
        try:
            for values in reader:
                if None in values or None in values.values():
                    raise PromptsError(f"{path}:{reader.line_num}: not as many cells as the header")
                yield reader.line_num, _row(dict(values), f"{path}:{reader.line_num}")
        except csv.Error as error:
            raise PromptsError(f"{path}:{reader.line_num}: {error}") from error

    return read


def _row(values: dict[str, Any], where: str) -> Row:
    columns = {str(name).lower(): name for name in values}
    column = next((columns[name] for name in TEXT_COLUMNS if name in columns), None)
    if column is None:
        raise PromptsError(f"{where}: no column {', '.join(TEXT_COLUMNS[:-1])} or {TEXT_COLUMNS[-1]}")
    text, category = values.pop(column), values.pop(columns.get("category", "category"), None)
    if not isinstance(text, str):
        raise PromptsError(f"{where}: {column} is {text!r}, not text")
    return Row(text.strip(), None if category in (None, "") else str(category), values)


_READERS = {".txt": _plain, ".jsonl": _json_lines, ".csv": _columns(","), ".tsv": _columns("\t")}
