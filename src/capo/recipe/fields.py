"""The base class of all sections of a recipe, and the types of their fields."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

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


class Section(BaseModel):
    """A part of a recipe: strict, typed and immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    def results(self) -> dict[str, Any]:
        """Return the fields that determine results, as JSON values, without the `RUNTIME` ones."""
        runtime = {n for n, f in type(self).model_fields.items() if RUNTIME in f.metadata}
        return self.model_dump(mode="json", exclude=runtime)
