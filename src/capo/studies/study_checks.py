"""Checks of a study that go beyond the types of its fields."""

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.util import find_spec

from capo.recipe.hints import nearest
from capo.studies.fronts import FrontSection
from capo.studies.study import Row, Study, chain_of_starts

FIGURES = "figures"
"""Folder of a study's figures, next to the folders of its rows."""

SET_BY_STUDY = ("name", "seed", "start.run")
"""Recipe fields that the study itself sets for its runs."""


def row_problems(study: Study, axes: Mapping[str, set[str]], against: Collection[str]) -> Iterator[str]:
    """Yield every problem with names, seeds, axes and soups.

    `axes` has the fields that every axis sets, `against` the rows named as the one to compare with.
    """
    names = [row.name for row in study.rows]
    if not names:
        yield "vary, rows: a study needs at least one row"
    for name in _repeated(names):
        yield f"rows: {name!r} occurs more than once"
    if FIGURES in names:
        yield f"rows: {FIGURES!r} is the folder of the study's figures; rename the row"
    if len(set(study.seeds)) < len(study.seeds):
        yield f"seeds: a seed occurs more than once in {list(study.seeds)}"
    for (axis, keys), (other, other_keys) in itertools.combinations(axes.items(), 2):
        for key in sorted(keys & other_keys):
            yield f"vary: {axis} and {other} both set {key}"
    for key in SET_BY_STUDY:
        settings = (study.shared, study.quick_settings, *(row.own for row in study.rows))
        if any(key in section for section in settings):
            yield f"set: the study itself sets {key} for every run; remove it"
    for name in against:
        if name not in names:
            yield f"against: no row {name!r}{nearest(name, names)}"
    trained = [row.name for row in study.rows if not row.soup]
    yield from _round_problems(study.rows, trained)
    for row in study.rows:
        yield from _soup_problems(row, trained)


def front_problems(sections: Sequence[FrontSection], trained: Sequence[str]) -> Iterator[str]:
    """Yield every problem with the fronts of a study whose rows `trained` are trained."""
    for name in _repeated([section.name for section in sections]):
        yield f"fronts: {name!r} occurs more than once"
    for section in sections:
        for name in section.of:
            if name not in trained:
                yield f"fronts.{section.name}.of: no trained row {name!r} ({', '.join(trained)})"
        if len(set(section.of)) < len(section.of):
            yield f"fronts.{section.name}.of: a row occurs more than once"
    if sections and find_spec("moocore") is None:
        yield "fronts: hypervolumes need moocore: pip install 'capo-diffusion[front]'"


def _soup_problems(row: Row, trained: Sequence[str]) -> Iterator[str]:
    for name in row.soup:
        if name not in trained:
            yield f"rows.{row.name}.soup: no trained row {name!r}{nearest(name, trained)}"
    if len(row.soup) == 1:
        yield f"rows.{row.name}.soup: a soup needs at least two rows"
    if row.weights and len(row.weights) != len(row.soup):
        yield f"rows.{row.name}.weights: {len(row.weights)} weights for a soup of {len(row.soup)} rows"
    if row.weights and not any(row.weights):
        yield f"rows.{row.name}.weights: all are 0"
    if row.interpolation != "slerp" and not row.soup:
        yield f"rows.{row.name}.interpolation: only a soup has one"


def _round_problems(rows: Sequence[Row], trained: Sequence[str]) -> Iterator[str]:
    starts = {row.name: row.start for row in rows}
    for row in rows:
        if row.start is None:
            continue
        if row.soup:
            yield f"rows.{row.name}.start: a soup is not trained, so it cannot have a start"
        elif row.start not in trained:
            yield f"rows.{row.name}.start: no trained row {row.start!r}{nearest(row.start, trained)}"
        elif row.name in chain_of_starts(row.name, starts):
            yield f"rows.{row.name}.start: the row starts from itself"


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})
