"""Prompt files of text: a prompt a line, or rows of a table with a prompt column.

`.txt` has a prompt a line, `.json` a list, `.jsonl` an object a line; `.csv` and `.tsv` are tables.
The prompt column is called `text`, `prompt` or `caption`, or as `prompts.column` says, and the
category column `category`; the other columns become metadata.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from capo.prompts.rows import PromptsError, Row, Wanted, check_text, counts, make_row

Found = tuple[int, "str | Mapping[str, Any]"]
"""A number, of a line or an item, and what is there: a text, or named values."""


def read_text(name: str, data: bytes, wanted: Wanted) -> Iterator[Row]:
    """The prompts of a file in order; blank lines are skipped, blanks around a prompt dropped.

    UTF-8, with or without a byte-order mark, with any line ends. Raises `PromptsError` for what is
    not text and for control characters, naming the line.
    """
    for number, found in READERS[Path(name).suffix.lower()](name, data):
        place = f"{name}:{number}"
        if isinstance(found, str):
            _refuse_columns(name, wanted)
            row = Row(found.strip())
        elif not counts(found, wanted, place):
            continue
        else:
            row = make_row(found, place, wanted)
        if row.text:
            check_text(row.text, place)
            yield row


def lines(name: str, data: bytes) -> Iterator[tuple[int, str]]:
    """The lines of a file, counted from 1; only line feeds, with or without a return, end them."""
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        yield number, _decode(line.removesuffix(b"\r"), f"{name}:{number}")


def json_objects(name: str, data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of JSON Lines."""
    for number, line in lines(name, data):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            raise PromptsError(f"{name}:{number}: not JSON: {error}") from error
        if not isinstance(values, dict):
            raise PromptsError(f"{name}:{number}: a line is a JSON object")
        yield number, values


def json_value(name: str, data: bytes) -> Any:
    """The one value of a JSON file."""
    try:
        return json.loads(_decode(data.removeprefix(b"\xef\xbb\xbf"), name))
    except ValueError as error:
        raise PromptsError(f"{name}: not JSON: {error}") from error


def table_rows(
    name: str, data: bytes, delimiter: str, quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a table with a header, each with as many cells."""
    text = (line + "\n" for _, line in lines(name, data))
    reader = csv.DictReader(text, delimiter=delimiter, quoting=quoting, strict=True)
    try:
        for values in reader:
            if None in values or None in values.values():
                raise PromptsError(f"{name}:{reader.line_num}: not as many cells as the header")
            yield reader.line_num, dict(values)
    except csv.Error as error:
        raise PromptsError(f"{name}:{reader.line_num}: {error}") from error


def _json_items(name: str, data: bytes) -> Iterator[Found]:
    items = json_value(name, data)
    if not isinstance(items, list):
        raise PromptsError(f"{name}: expected a list of prompts, or of objects with one")
    for number, item in enumerate(items, start=1):
        if not isinstance(item, str | dict):
            raise PromptsError(f"{name}:{number}: an item is a prompt, or an object with one")
        yield number, item


def _refuse_columns(name: str, wanted: Wanted) -> None:
    for field in ("column", "where"):
        if getattr(wanted.section, field) is not None:
            raise PromptsError(f"{wanted.field}.{field} does not apply to {name}, which has no columns")


def _decode(data: bytes, place: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PromptsError(f"{place}: not UTF-8 ({error.reason})") from error


READERS: dict[str, Callable[[str, bytes], Iterable[Found]]] = {
    ".txt": lines,
    ".json": _json_items,
    ".jsonl": json_objects,
    ".csv": lambda name, data: table_rows(name, data, ","),
    ".tsv": lambda name, data: table_rows(name, data, "\t"),
}
