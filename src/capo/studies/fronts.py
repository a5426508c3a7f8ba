"""Fronts of a study file: soups of some rows with all weightings on a grid.

fronts:
  - {name: soups, of: [preference, alignment], points: 3}    # the rows themselves, and soups-0.5-0.5
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from capo.recipe.fields import Name

Weights = tuple[float, ...]


class FrontSection(BaseModel):
    """A front as it is written; its ends are rows that are trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    of: tuple[Name, ...] = Field(min_length=2)
    points: Annotated[int, Field(ge=3, description="on the way from each row to each other, ends included")]


@dataclass(frozen=True)
class Front:
    """Rows that trace a front, each with its weights of the policies `of`."""

    name: str
    of: tuple[str, ...]
    step: float
    """between neighbouring weights"""
    rows: Mapping[str, Weights]

    @property
    def points(self) -> int:
        """On the way from each row to each other, ends included."""
        return round(1 / self.step) + 1

    @property
    def soups(self) -> dict[str, Weights]:
        """The rows that are merged, and no ends."""
        return {name: weights for name, weights in self.rows.items() if name not in self.of}


def expanded(section: FrontSection) -> Front:
    """All rows of a front, in the order of `capo soup`'s sweeps; soups are named by their weights."""
    from capo.soups.merge import weightings

    rows = {}
    for weights in weightings(len(section.of), section.points):
        named = "-".join([section.name, *(f"{weight:.3g}" for weight in weights)])
        rows[section.of[weights.index(1)] if 1 in weights else named] = tuple(weights)
    return Front(section.name, section.of, 1 / (section.points - 1), rows)


def front_problems(sections: Sequence[FrontSection], trained: Sequence[str]) -> Iterator[str]:
    """What is wrong with the fronts of a study whose rows `trained` are trained, one line each."""
    names = [section.name for section in sections]
    for name in sorted({n for n in names if names.count(n) > 1}):
        yield f"fronts: {name!r} is there more than once"
    for section in sections:
        for name in section.of:
            if name not in trained:
                yield f"fronts.{section.name}.of: no trained row {name!r} ({', '.join(trained)})"
        if len(set(section.of)) < len(section.of):
            yield f"fronts.{section.name}.of: a row is there more than once"
    if sections and find_spec("moocore") is None:
        yield "fronts: hypervolumes need moocore: pip install 'capo-diffusion[front]'"
