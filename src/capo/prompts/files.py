"""Text files of prompts: one prompt per line, or the rows of a table.

`.txt` has one prompt per line, `.json` a list, `.jsonl` one object per line; `.csv` and `.tsv` are tables.
The prompt column is the one that `prompts.column` names, else `text`, `prompt` or `caption`. The category
column is `category`; the other columns become metadata.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from capo.prompts.conditions import meets_conditions
from capo.prompts.rows import PromptRequest, SourceRow, make_row, refuse_columns
from capo.prompts.text_rules import PromptsError

Item = tuple[int, "str | Mapping[str, Any]"]
"""The number of a line or list item, and its content: a text, or named values."""


def read_text(name: str, data: bytes, request: PromptRequest) -> Iterator[SourceRow]:
    """Yield the rows of a file in order.

    The text is UTF-8, with or without a byte-order mark, with LF or CRLF line ends. Raises `PromptsError`,
    which names the line, for anything else.
    """
    for number, item in READERS[Path(name).suffix.lower()](name, data):
        place = f"{name}:{number}"
        if isinstance(item, str):
            refuse_columns(name, request)
            yield SourceRow(item.strip(), place=place)
        elif meets_conditions(item, request, place):
            yield make_row(item, place, request)


def lines(name: str, data: bytes) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file, numbered from 1; only LF and CRLF end a line."""
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        yield number, _decode(line.removesuffix(b"\r"), f"{name}:{number}")


def json_objects(name: str, data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of JSON Lines with their line numbers; blank lines are skipped."""
    for number, line in lines(name, data):
        if not line.strip():
            continue
        try:
            values = json.loads(line, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            raise PromptsError(f"{name}:{number}: not JSON: {error}") from error
        if not isinstance(values, dict):
            raise PromptsError(f"{name}:{number}: expected a JSON object")
        yield number, values


def json_value(name: str, data: bytes) -> Any:
    """Return the value that a JSON file holds."""
    try:
        text = _decode(data.removeprefix(b"\xef\xbb\xbf"), name)
        return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise PromptsError(f"{name}: not JSON: {error}") from error


def table_rows(
    name: str, data: bytes, delimiter: str, quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a table with a header; every row must have as many cells as the header."""
    text = (line + "\n" for _, line in lines(name, data))
    reader = csv.DictReader(text, delimiter=delimiter, quoting=quoting, strict=True)
    try:
        columns = reader.fieldnames or ()
        if repeated := sorted({column for column in columns if columns.count(column) > 1}):
            raise PromptsError(f"{name}:1: several columns are named {repeated[0]!r}; rename all but one")
        for values in reader:
            if None in values or None in values.values():
                raise PromptsError(f"{name}:{reader.line_num}: the number of cells differs from the header")
            yield reader.line_num, dict(values)
    except csv.Error as error:
        raise PromptsError(f"{name}:{reader.line_num}: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; raises `ValueError` for a repeated key, of which one value would be lost."""
    values = dict(pairs)
    if len(values) < len(pairs):
        repeated = next(key for n, (key, _) in enumerate(pairs) if key in dict(pairs[:n]))
        raise ValueError(f"{repeated!r} is repeated in an object")
    return values


def _json_items(name: str, data: bytes) -> Iterator[Item]:
    items = json_value(name, data)
    if not isinstance(items, list):
        raise PromptsError(f"{name}: expected a list of prompts, or of objects with a prompt")
    for number, item in enumerate(items, start=1):
        if not isinstance(item, str | dict):
            raise PromptsError(f"{name}:{number}: expected a prompt, or an object with a prompt")
        yield number, item


def _decode(data: bytes, place: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PromptsError(f"{place}: not UTF-8 ({error.reason})") from error


READERS: dict[str, Callable[[str, bytes], Iterable[Item]]] = {
    ".txt": lines,
    ".json": _json_items,
    ".jsonl": json_objects,
    ".csv": lambda name, data: table_rows(name, data, ","),
    ".tsv": lambda name, data: table_rows(name, data, "\t"),
}
"""Readers by file name ending."""
