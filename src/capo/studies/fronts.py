"""Fronts of a study file: soups of some rows with all weights on a grid.

fronts:
  - {name: soups, of: [preference, alignment], points: 3}    # the two rows, and soups-0.5-0.5
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from capo.recipe.fields import Name

Weights = tuple[float, ...]


class FrontSection(BaseModel):
    """A front as written; its ends are trained rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    of: tuple[Name, ...] = Field(min_length=2)
    points: Annotated[int, Field(ge=3, description="points between every two rows, ends included")]


@dataclass(frozen=True)
class Front:
    """Rows that trace a front, each with its weights of the policies `of`."""

    name: str
    of: tuple[str, ...]
    step: float
    """Difference between neighboring weights."""
    rows: Mapping[str, Weights]

    @property
    def points(self) -> int:
        """Points between every two rows, ends included."""
        return round(1 / self.step) + 1

    @property
    def soups(self) -> dict[str, Weights]:
        """The rows that are soups, without the ends."""
        return {name: weights for name, weights in self.rows.items() if name not in self.of}


def expanded_front(section: FrontSection) -> Front:
    """Return all rows of a front, in the order of `capo soup --sweep`; soups are named by their weights."""
    from capo.soups.merge import weightings

    rows = {}
    for weights in weightings(len(section.of), section.points):
        named = "-".join([section.name, *(f"{weight:.3g}" for weight in weights)])
        rows[section.of[weights.index(1)] if 1 in weights else named] = tuple(weights)
    return Front(section.name, section.of, 1 / (section.points - 1), rows)
