"""Contradictions in a recipe that has invalid fields too, so that all problems are reported at once.

Pydantic compares the fields of a recipe only once each of them is valid.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from pydantic import ValidationError

from capo.recipe.consistency import BETWEEN
from capo.recipe.sections import Recipe

PASSES = 4
"""A section that is missing is filled in first, and then its fields."""

PLACEHOLDERS: dict[Any, Any] = {
    "name": "unnamed",
    "checkpoint": "unnamed",
    "source": "unnamed",
    "beta": 1.0,
    "rewards": [{"name": "unnamed"}],
}
"""Valid values of the fields that have no default."""


def hidden_contradictions(values: Mapping[str, Any], problems: Sequence[Any]) -> list[str]:
    """Return the contradictions between the valid fields of plain recipe `values`.

    `problems` are the errors of pydantic for these values. Contradictions that mention an invalid field are
    left out, since they may only follow from its default.
    """
    repaired, invalid = deepcopy(dict(values)), set[str]()
    if any(not problem["loc"] for problem in problems):
        return []  # pydantic has compared the fields
    for _ in range(PASSES):
        # From the end, so that the other places in a list stay the same.
        for problem in sorted(problems, key=_place, reverse=True):
            name = next((part for part in reversed(problem["loc"]) if isinstance(part, str)), "")
            if problem["type"] != "extra_forbidden":
                invalid.add(name.removesuffix("s"))
            if not _repair(repaired, problem):
                return []
        try:
            Recipe.model_validate(repaired)
            return []
        except ValidationError as error:
            problems = error.errors()
        for problem in problems:
            if not problem["loc"]:
                lines = problem["msg"].removeprefix("Value error, ").split(BETWEEN)
                return [line for line in lines if not any(name in line for name in invalid)]
    return []


def _place(problem: Any) -> list[tuple[int, str]]:
    return [(part, "") if isinstance(part, int) else (-1, part) for part in problem["loc"]]


def _repair(values: Any, problem: Any) -> bool:
    """Remove the field of a problem, or fill it in if it is missing; return whether that worked."""
    *parents, last = problem["loc"]
    try:
        for part in parents:
            values = values[part]
        if problem["type"] == "missing":
            values[last] = PLACEHOLDERS.get(last, {})
        else:
            del values[last]
    except (KeyError, IndexError, TypeError):
        return False
    return True
