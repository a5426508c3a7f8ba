"""Prompts in Parquet, on this machine or on the Hub: only the columns that matter are read.

Those are the text and `category`; others, which may be images, are not taken as metadata.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from capo.engine.progress import say
from capo.prompts import hub
from capo.prompts.files import READERS, read_text
from capo.prompts.rows import PromptsError, Row, Wanted, category_column, text_column, unfit_character

BATCH_ROWS = 65_536


def read_hub(wanted: Wanted) -> Iterator[Row]:
    """The prompts of a data set on the Hub: Parquet files, or one of the text formats."""
    section = wanted.section
    try:
        filesystem, paths = hub.find_files(section.source, section.split, section.revision)
    except hub.HubError as error:
        raise PromptsError(f"{wanted.field}.source: {error}") from error
    if all(path.endswith(".parquet") for path in paths):
        yield from read_parquet(paths, wanted, filesystem)
        return
    for path in paths:
        if not path.endswith(tuple(READERS)):
            raise PromptsError(f"{path}: prompt files end in {', '.join(READERS)}, .parquet")
        yield from read_text(path, filesystem.cat_file(path), wanted)


def read_parquet(paths: Sequence[str], wanted: Wanted, filesystem: Any = None) -> Iterator[Row]:
    """The prompts of Parquet files, in order, that meet `where`.

    Collected prompts hold what nobody typed: those with control characters are left out, and told.
    Raises `PromptsError` for columns that are not there, of another kind, or that do not compare.
    """
    import pyarrow as pa
    from pyarrow import dataset

    unfit, source = 0, wanted.section.source
    try:
        table = dataset.dataset(list(paths), format="parquet", filesystem=filesystem)
        columns = _columns(table.schema, wanted)
        chosen = _filter(table.schema, wanted)
        for batch in table.to_batches(columns=columns, filter=chosen, batch_size=BATCH_ROWS):
            texts, *categories = (batch[name].to_pylist() for name in columns)
            for row, text in enumerate(texts):
                if not text or not (text := text.strip()):
                    continue
                if unfit_character(text) is not None:
                    unfit += 1
                    continue
                category = categories[0][row] if categories else None
                yield Row(text, None if category in (None, "") else str(category))
    except (pa.ArrowException, OSError) as error:
        raise PromptsError(f"{source} cannot be read: {error}") from error
    if unfit:
        say(f"{source}: {unfit} prompts with control characters are left out")


def _columns(schema: Any, wanted: Wanted) -> list[str]:
    import pyarrow as pa

    source = wanted.section.source
    text, category = text_column(schema.names, source, wanted), category_column(schema.names)
    kind = schema.field(text).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise PromptsError(f"{source}: {text} is of type {kind}, not text")
    return [text, *([category] if category not in (None, text) else [])]


def _filter(schema: Any, wanted: Wanted) -> Any:
    from pyarrow.parquet import filters_to_expression

    section = wanted.section
    for column, _, _ in section.where or ():
        if column not in schema.names:
            known = ", ".join(schema.names)
            where = f"{section.source}: no column {column!r} ({wanted.field}.where)"
            raise PromptsError(f"{where}; it has {known}")
    return filters_to_expression(list(section.where)) if section.where else None
