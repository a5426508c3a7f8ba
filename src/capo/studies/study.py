"""A study in memory: its rows, and the recipe of every row and seed."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import yaml
from pydantic import JsonValue

from capo.recipe import Recipe, RecipeError, load_recipe
from capo.studies.fronts import Front

Settings = dict[str, JsonValue]
"""Recipe fields by their dotted names, as in `--set`."""

Interpolation = Literal["slerp", "linear"]


class StudyError(RecipeError):
    """An invalid study; the message lists every problem on its own line."""


@dataclass(frozen=True)
class Row:
    """One line of the table, with the settings in which it differs from the base recipe."""

    name: str
    own: Settings
    """Settings of this row alone."""
    tune: str | None
    """How the settings were tuned."""
    soup: tuple[str, ...]
    """Rows whose policies are merged; empty for a row that is trained."""
    weights: tuple[float, ...] = ()
    """Weights of the soup's policies; empty for equal weights."""
    start: str | None = None
    """The row whose policy this row continues training, as a further round."""
    interpolation: Interpolation = "slerp"
    """Interpolation of the soup."""


@dataclass(frozen=True)
class Study:
    """The rows to compare; `shared` settings apply to all rows."""

    name: str
    title: str
    recipe: str
    shared: Settings
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    against: str
    """The row that the others are compared with."""
    fronts: tuple[Front, ...] = ()
    quick: bool = False
    quick_settings: Settings = field(default_factory=dict)
    """Settings that override all others in the quick form."""

    def row_recipe(self, row: Row, seed: int, folder: Path = Path()) -> Recipe:
        """Return the recipe of one run of the study in `folder`; raises `StudyError` naming the row.

        It has no benchmarks, which a study does not tabulate.
        """
        try:
            recipe = load_recipe(self.recipe, set_options(self.run_settings(row, seed, folder)))
            return recipe.model_copy(update={"benchmarks": ()})
        except RecipeError as error:
            raise StudyError(f"study {self.name}, row {row.name}: {error}") from None

    def run_settings(self, row: Row, seed: int, folder: Path = Path()) -> Settings:
        """Return all settings in which one run of the study in `folder` differs from the base recipe."""
        start = {} if row.start is None else {"start.run": str(run_directory(folder, row.start, seed))}
        return {**self.shared, **row.own, "name": row.name, "seed": seed, **start}

    def only(self, seeds: Collection[int] | None) -> "Study":
        """Return the study with these seeds, or all for None; raises `StudyError` for an unknown seed."""
        if seeds is None:
            return self
        if unknown := sorted(set(seeds) - set(self.seeds)):
            known = ", ".join(map(str, self.seeds))
            raise StudyError(f"--seeds: study {self.name} has no seed {unknown[0]}; its seeds are {known}")
        return replace(self, seeds=tuple(seed for seed in self.seeds if seed in seeds))

    def earlier_rounds(self, row: Row) -> list[str]:
        """Return the names of the rows that a row continues, the first round last."""
        return chain_of_starts(row.name, {other.name: other.start for other in self.rows})


def run_directory(folder: Path, row: str, seed: int) -> Path:
    """Return the run directory of a row in the study's folder."""
    return folder / row / f"seed-{seed}"


def set_options(settings: Settings) -> list[str]:
    """Return settings as `--set` takes them: `KEY=VALUE` with YAML values."""
    return [f"{key}={_yaml(value)}" for key, value in settings.items()]


def chain_of_starts(row: str, starts: Mapping[str, str | None]) -> list[str]:
    """Return the rows that a row continues, the nearest first; stops where the chain would repeat."""
    chain: list[str] = []
    following = starts.get(row)
    while following is not None and following not in chain:
        chain.append(following)
        following = starts.get(following)
    return chain


def _yaml(value: JsonValue) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("...\n").strip()
