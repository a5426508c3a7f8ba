"""Prompts in Parquet files, local or on the Hub. Only the needed columns are read.

These are the text, the category and what `where` asks for; other columns, which may hold images, do not
become metadata.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from capo.prompts import hub
from capo.prompts.files import READERS, read_text
from capo.prompts.rows import PromptRequest, SourceRow, category_column, text_column
from capo.prompts.text_rules import PromptsError

BATCH_ROWS = 65_536


def read_hub(request: PromptRequest) -> Iterator[SourceRow]:
    """Yield the rows of a data set on the Hub: Parquet files, or one of the text formats."""
    section = request.section
    try:
        filesystem, paths = hub.find_files(section.source, section.split, section.revision)
    except hub.HubError as error:
        raise PromptsError(f"{request.field}.source: {error}") from error
    if all(path.endswith(".parquet") for path in paths):
        yield from read_parquet(paths, request, filesystem)
        return
    for path in paths:
        if not path.endswith(tuple(READERS)):
            raise PromptsError(
                f"{path}: unknown file type; prompt files end in {', '.join(READERS)}, .parquet"
            )
        yield from read_text(path, filesystem.cat_file(path), request)


def read_parquet(paths: Sequence[str], request: PromptRequest, filesystem: Any = None) -> Iterator[SourceRow]:
    """Yield the rows of Parquet files, in order, that meet `where`.

    Raises `PromptsError` for columns that are missing, of the wrong type, or that do not compare.
    """
    import pyarrow as pa
    from pyarrow import dataset

    source = request.section.source
    try:
        table = dataset.dataset(list(paths), format="parquet", filesystem=filesystem)
        columns = _columns(table.schema, request)
        chosen = _filter(table.schema, request)
        for batch in table.to_batches(columns=columns, filter=chosen, batch_size=BATCH_ROWS):
            texts, *categories = (batch[name].to_pylist() for name in columns)
            for row, text in enumerate(texts):
                category = categories[0][row] if categories else None
                yield SourceRow((text or "").strip(), None if category in (None, "") else str(category))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise PromptsError(f"{source} cannot be read: {error}") from error


def _columns(schema: Any, request: PromptRequest) -> list[str]:
    import pyarrow as pa

    source = request.section.source
    text, category = text_column(schema.names, source, request), category_column(schema.names)
    kind = schema.field(text).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise PromptsError(f"{source}: {text} is of type {kind}, not text")
    return [text, *([category] if category not in (None, text) else [])]


def _filter(schema: Any, request: PromptRequest) -> Any:
    from pyarrow.parquet import filters_to_expression

    section = request.section
    for column, _, _ in section.where or ():
        if column not in schema.names:
            raise PromptsError(
                f"{section.source}: no column {column!r} ({request.field}.where); the columns are "
                f"{', '.join(schema.names)}"
            )
    return filters_to_expression(list(section.where)) if section.where else None
