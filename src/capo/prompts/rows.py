"""Rows of a prompt source: which column is the text, which is the category."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from capo.prompts.text_rules import PromptsError, say_column
from capo.recipe import PromptsSection

PROMPTS = "prompts"
"""The recipe field that says where training prompts come from."""

TEXT_COLUMNS = ("text", "prompt", "caption")
CATEGORY_COLUMN = "category"


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row of a source, before it is checked."""

    text: str
    """Stripped of surrounding white space; empty when the row has no prompt."""
    category: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    place: str | None = None
    """File and line, for errors. None in Parquet files, whose unusable rows are skipped and counted."""


@dataclass(frozen=True, slots=True)
class PromptRequest:
    """A section that names prompts, and the recipe field it stands in, for errors."""

    section: PromptsSection
    field: str = PROMPTS


def make_row(values: Mapping[str, Any], place: str, request: PromptRequest) -> SourceRow:
    """Return the row of named values: the text, the category if any, and the rest as metadata."""
    rest = dict(values)
    name, category_name = text_column(rest, place, request), category_column(rest)
    text = rest.pop(name)
    category = rest.pop(category_name, None) if category_name else None
    if not isinstance(text, str):
        raise PromptsError(f"{place}: {name} is {text!r}, not text")
    return SourceRow(text.strip(), None if category in (None, "") else str(category), rest, place)


def refuse_columns(name: str, request: PromptRequest) -> None:
    """Raise `PromptsError` if the section names columns, which the source `name` does not have."""
    for setting in ("column", "where"):
        if getattr(request.section, setting) is not None:
            raise PromptsError(f"{request.field}.{setting} does not apply to {name}, which has no columns")


def text_column(names: Collection[str], place: str, request: PromptRequest) -> str:
    """Return the column of prompts: as the section names it, else the first of `TEXT_COLUMNS` in any case."""
    column, field = request.section.column, f"{request.field}.column"
    if column is not None:
        if column not in names:
            raise PromptsError(f"{place}: no column {column!r} ({field}); the columns are {', '.join(names)}")
        return column
    by_lower_case = {name.lower(): name for name in names}
    if found := [by_lower_case[name] for name in TEXT_COLUMNS if name in by_lower_case]:
        say_column(request.section.source, found[0], tuple(found[1:]), field)
        return found[0]
    usual = f"{', '.join(TEXT_COLUMNS[:-1])} or {TEXT_COLUMNS[-1]}"
    raise PromptsError(f"{place}: no column {usual}; name the column of prompts in {field}")


def category_column(names: Collection[str]) -> str | None:
    """Return the column `category`, in any case, or None."""
    return next((name for name in names if name.lower() == CATEGORY_COLUMN), None)
