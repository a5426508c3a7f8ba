"""The conditions of `prompts.where`, for text formats; Parquet has pyarrow evaluate them."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

from capo.prompts.rows import PromptRequest
from capo.prompts.text_rules import PromptsError

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def meets_conditions(values: Mapping[str, Any], request: PromptRequest, place: str) -> bool:
    """Return whether named values meet every condition of `where`."""
    field = f"{request.field}.where"
    return all(_holds(values, condition, place, field) for condition in request.section.where or ())


def _holds(values: Mapping[str, Any], condition: tuple[str, str, Any], place: str, field: str) -> bool:
    """Evaluate one condition as pyarrow does: a missing value satisfies only `not in`."""
    column, comparison, wanted = condition
    if column not in values:
        raise PromptsError(f"{place}: no column {column!r} ({field}); the columns are {', '.join(values)}")
    value = values[column]
    if comparison in ("in", "not in"):
        included = any(value is not None and _comparable(value, w, column, place, field) == w for w in wanted)
        return included == (comparison == "in")
    if value is None:
        return False
    return _COMPARISONS[comparison](_comparable(value, wanted, column, place, field), wanted)


def _comparable(value: Any, wanted: Any, column: str, place: str, field: str) -> Any:
    """Return `value` in the type of `wanted`: a CSV cell becomes a number if `wanted` is a number."""
    if _is_number(wanted) and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    elif isinstance(value, type(wanted)) or (_is_number(value) and _is_number(wanted)):
        return value
    raise PromptsError(f"{place}: {column} is {value!r}, which does not compare with {wanted!r} ({field})")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
