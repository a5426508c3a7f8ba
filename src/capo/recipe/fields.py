"""The base class of all sections of a recipe, and the types of their fields."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    field_validator,
)

from capo.method.objective_table import OBJECTIVES
from capo.recipe.hints import nearest

RUNTIME = "capo:runtime"
"""Annotation of fields that change speed or memory but no result; changing one makes no artifact stale."""

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Condition = tuple[str, Literal["==", "!=", "<", "<=", ">", ">=", "in", "not in"], JsonValue]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


def _known_objective(name: str) -> str:
    if name not in OBJECTIVES:
        raise ValueError(f"no such objective; choose from {', '.join(OBJECTIVES)}{nearest(name, OBJECTIVES)}")
    return name


Objective = Annotated[str, AfterValidator(_known_objective)]


def _types(annotation: Any) -> Iterator[Any]:
    """Yield the types that an annotation such as `int | None` consists of."""
    parts = get_args(annotation)
    for part in parts:
        yield from _types(part)
    if not parts:
        yield annotation


class Section(BaseModel):
    """A part of a recipe: strict, typed and immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and info.field_name is not None:
            accepted = list(_types(cls.model_fields[info.field_name].annotation))
            if bool not in accepted and (int in accepted or float in accepted):
                raise ValueError("Input should be a number")
        return value

    def results(self) -> dict[str, Any]:
        """Return the fields that determine results, as JSON values, without the `RUNTIME` ones."""
        runtime = {n for n, f in type(self).model_fields.items() if RUNTIME in f.metadata}
        return self.model_dump(mode="json", exclude=runtime)
