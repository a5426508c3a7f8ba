"""Rows of a source of prompts: which column is the text, which rows count, and what is refused."""

import operator
import unicodedata
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from capo.recipe import PromptsSection

PROMPTS = "prompts"
"""The field of a recipe that says where prompts come from, if no other does."""

TEXT_COLUMNS = ("text", "prompt", "caption")
CATEGORY_COLUMN = "category"


class PromptsError(ValueError):
    """Prompts that cannot be used; the message names the file and the line."""


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt as it is in its source."""

    text: str
    category: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which prompts are wanted, and the field of the recipe that says so: `evaluate.prompts`."""

    section: PromptsSection
    field: str = PROMPTS


def make_row(values: Mapping[str, Any], place: str, wanted: Wanted) -> Row:
    """The row of named values: a text, maybe a category, and the rest as metadata.

    Blanks around the text are dropped. `place` (file and line) heads the errors.
    """
    rest = dict(values)
    name, category_name = text_column(rest, place, wanted), category_column(rest)
    text = rest.pop(name)
    category = rest.pop(category_name, None) if category_name else None
    if not isinstance(text, str):
        raise PromptsError(f"{place}: {name} is {text!r}, not text")
    return Row(text.strip(), None if category in (None, "") else str(category), rest)


def text_column(names: Collection[str], place: str, wanted: Wanted) -> str:
    """The column with the prompts: the one that is named, else the first of `TEXT_COLUMNS`, in any case."""
    column, field = wanted.section.column, f"{wanted.field}.column"
    if column is not None:
        if column not in names:
            raise PromptsError(f"{place}: no column {column!r} ({field}); it has {', '.join(names)}")
        return column
    known = {name.lower(): name for name in names}
    for name in TEXT_COLUMNS:
        if name in known:
            return known[name]
    usual = f"{', '.join(TEXT_COLUMNS[:-1])} or {TEXT_COLUMNS[-1]}"
    raise PromptsError(f"{place}: no column {usual}; name the one with the prompts in {field}")


def category_column(names: Collection[str]) -> str | None:
    """The column `category`, in any case, if there is one."""
    return next((name for name in names if name.lower() == CATEGORY_COLUMN), None)


def counts(values: Mapping[str, Any], wanted: Wanted, place: str) -> bool:
    """Whether named values meet every condition of `where`."""
    field = f"{wanted.field}.where"
    return all(_holds(values, condition, place, field) for condition in wanted.section.where or ())


def check_text(text: str, place: str) -> None:
    """Raise `PromptsError` for what no tokenizer should see."""
    if (character := unfit_character(text)) is not None:
        raise PromptsError(f"{place}: control character U+{ord(character):04X} in the prompt")


def unfit_character(text: str) -> str | None:
    """The first control character, tabs and line feeds aside, or lone surrogate, as JSON can spell."""
    unfit = (c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n")
    return None if text.isprintable() else next(unfit, None)


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _holds(values: Mapping[str, Any], condition: tuple[str, str, Any], place: str, field: str) -> bool:
    """As pyarrow has it, which filters Parquet: nothing can be said of a value that is not there."""
    column, comparison, wanted = condition
    if column not in values:
        raise PromptsError(f"{place}: no column {column!r} ({field}); it has {', '.join(values)}")
    value = values[column]
    if comparison in ("in", "not in"):
        found = any(value is not None and _like(value, w, column, place, field) == w for w in wanted)
        return found == (comparison == "in")
    return value is not None and _COMPARISONS[comparison](_like(value, wanted, column, place, field), wanted)


def _like(value: Any, wanted: Any, column: str, place: str, field: str) -> Any:
    """`value` if it compares with `wanted`; a cell of CSV is read as a number where one is wanted."""
    if _is_number(wanted) and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    elif isinstance(value, type(wanted)) or (_is_number(value) and _is_number(wanted)):
        return value
    told = f"{column} is {value!r}, which does not compare with {wanted!r}"
    raise PromptsError(f"{place}: {told} ({field})")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
