"""Study files: strict, typed YAML.

name: objectives
title: Which objective?
recipe: shapes
vary:
  objective:
    capo: {set: {train.objective: capo, train.beta: 40}}
    ipo: {set: {train.objective: ipo, train.beta: 80}, tune: best of 40, 80 and 160}
rows:
  - {name: both, soup: [capo, ipo]}
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from capo.recipe.fields import Name
from capo.recipe.hints import nearest
from capo.recipe.yaml_files import read_yaml
from capo.studies.fronts import FrontSection, expanded_front
from capo.studies.study import Interpolation, Row, Settings, Study, StudyError
from capo.studies.study_checks import front_problems, row_problems

QUICK: Mapping[str, Any] = {
    "prompts.count": 4,
    "generate.samples_per_prompt": 4,
    "generate.num_inference_steps": 2,
    "train.steps": 4,
    "train.global_batch_size": 4,
    "train.per_device_batch_size": None,
    "train.warmup_steps": 0,
    "train.checkpoint_every": 4,
    "train.validate_every": 2,
    "train.validation_prompts.count": 2,
    "train.validation_samples": 2,
    "evaluate.prompts.count": 6,
    "evaluate.samples_per_prompt": 2,
    "report.side_by_side": 2,
    "report.pair_examples": 1,
}
"""Settings of the quick form of any study, which only shows that everything runs."""

QUICK_SUFFIX = "-quick"
"""Ending of the quick form's name, and so of its folder."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LevelSection(_Section):
    """One value of an axis."""

    set: Settings = {}
    tune: str | None = Field(None, description="how its settings were tuned")


class RowSection(LevelSection):
    """A row outside the crossing of the axes; with `soup`, it merges policies instead of training one."""

    name: Name
    start: Name | None = Field(None, description="the row whose policy it continues, as a further round")
    soup: tuple[Name, ...] = Field((), description="rows whose policies it merges")
    weights: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = Field(
        (), description="weights of the policies of a soup; equal if left out"
    )
    interpolation: Interpolation = Field("slerp", description="interpolation of a soup")


class StudySection(_Section):
    """A study file as written."""

    name: Name
    title: str
    recipe: str = Field(description="base recipe of all runs: a shipped recipe's name or a YAML file")
    set: Settings = {}
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0, 1, 2), min_length=1)
    vary: dict[Name, dict[Name, LevelSection]] = {}
    rows: tuple[RowSection, ...] = ()
    fronts: tuple[FrontSection, ...] = ()
    against: Name | None = Field(None, description="row to compare the others with; the first if left out")
    quick: Settings = Field({}, description="settings of the quick form that override those of rows")
    is_quick: bool = Field(False, description="true in the file that a quick study leaves behind")


def load_study(name_or_path: str | Path, *, quick: bool = False, against: str | None = None) -> Study:
    """Load a shipped study by name or a YAML file, and check the recipe of every row.

    `quick` returns the form that only shows that everything runs: one seed, `QUICK` settings. The file that
    such a study leaves behind loads as a quick one. Raises `StudyError` naming every invalid field.
    """
    path = _find(name_or_path)
    section = _read_section(path)
    rows = [*_crossed_rows(section), *map(_own_row, section.rows)]
    trained = [row.name for row in rows if not row.soup]
    if problems := list(front_problems(section.fronts, trained)):
        raise StudyError("\n  ".join([f"{path}:", *problems]))
    fronts = tuple(map(expanded_front, section.fronts))
    rows += [Row(name, {}, None, front.of, w) for front in fronts for name, w in front.soups.items()]
    study = Study(
        name=section.name,
        title=section.title,
        recipe=section.recipe,
        shared=dict(section.set),
        rows=tuple(rows),
        seeds=section.seeds,
        against=against or section.against or (rows[0].name if rows else ""),
        fronts=fronts,
        quick=section.is_quick,
        quick_settings=dict(section.quick),
    )
    axes = {
        axis: {k for level in levels.values() for k in level.set} for axis, levels in section.vary.items()
    }
    if problems := list(row_problems(study, axes, [name for name in (section.against, against) if name])):
        raise StudyError("\n  ".join([f"{path}:", *problems]))
    if quick and not study.quick:
        study = _quick(study)
    recipes = [study.row_recipe(row, study.seeds[0]) for row in study.rows]
    if fronts and any(len(recipe.training_rewards) < 2 for recipe in recipes):
        raise StudyError(f"{path}: fronts: a front needs at least two training rewards")
    return study


def shipped_studies() -> dict[str, Path]:
    """Return name and path of every study that comes with the package."""
    folder = Path(str(resources.files("capo") / "studies" / "data"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def dump_study(study: Study) -> str:
    """Return a study file that loads as the same study, with the axes expanded to rows."""
    front_rows = {name for front in study.fronts for name in front.soups}
    fronts = [{"name": front.name, "of": list(front.of), "points": front.points} for front in study.fronts]
    values = {
        "name": study.name,
        "title": study.title,
        "recipe": study.recipe,
        "set": study.shared,
        "seeds": list(study.seeds),
        "rows": [_row_values(row) for row in study.rows if row.name not in front_rows],
        "fronts": fronts,
        "against": study.against,
        "quick": study.quick_settings,
    }
    mark = {"is_quick": True} if study.quick else {}
    return yaml.safe_dump(values | mark, sort_keys=False, allow_unicode=True)


def _row_values(row: Row) -> dict[str, Any]:
    optional = {
        "tune": row.tune,
        "start": row.start,
        "soup": list(row.soup),
        "weights": list(row.weights),
        "interpolation": None if row.interpolation == "slerp" else row.interpolation,
    }
    return {"name": row.name, "set": row.own} | {key: value for key, value in optional.items() if value}


def _find(name_or_path: str | Path) -> Path:
    path, shipped = Path(name_or_path), shipped_studies()
    if path.is_file():
        return path
    if str(name_or_path) in shipped:
        return shipped[str(name_or_path)]
    near = nearest(str(name_or_path), shipped)
    raise StudyError(
        f"no study {str(name_or_path)!r}: it is neither a file nor one of {', '.join(shipped)}{near}"
    )


def _read_section(path: Path) -> StudySection:
    try:
        values = read_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(values, dict):
        raise StudyError(f"{path}: expected a mapping with name, title, recipe, and vary or rows")
    try:
        return StudySection.model_validate(values)
    except ValidationError as error:
        raise StudyError("\n  ".join([f"{path}:", *map(_explain, error.errors())])) from None


def _own_row(section: RowSection) -> Row:
    return Row(
        name=section.name,
        own=dict(section.set),
        tune=section.tune,
        soup=section.soup,
        weights=section.weights,
        start=section.start,
        interpolation=section.interpolation,
    )


def _crossed_rows(section: StudySection) -> Iterator[Row]:
    """Yield one row for every combination of levels."""
    if not section.vary:
        return
    for chosen in itertools.product(*(levels.items() for levels in section.vary.values())):
        own: Settings = {}
        for _, level in chosen:
            own |= level.set
        notes = "; ".join(level.tune for _, level in chosen if level.tune)
        yield Row("-".join(name for name, _ in chosen), own, notes or None, ())


def _quick(study: Study) -> Study:
    first, last = dict(QUICK), study.quick_settings
    if study.row_recipe(study.rows[0], 0).train.validation_prompts is None:
        del first["train.validation_prompts.count"]
    return replace(
        study,
        name=study.name + QUICK_SUFFIX,
        shared=study.shared | first | last,
        rows=tuple(replace(row, own=row.own | last) for row in study.rows),
        seeds=study.seeds[:1],
        quick=True,
    )


def _explain(problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    field = ".".join(location)
    if problem["type"] == "missing":
        return f"{field}: missing"
    if problem["type"] == "extra_forbidden":
        inside: dict[str, type[BaseModel]] = {
            "rows": RowSection,
            "vary": LevelSection,
            "fronts": FrontSection,
        }
        section = StudySection if len(location) == 1 else inside[location[0]]
        return f"{field}: unknown key{nearest(location[-1], section.model_fields)}"
    return f"{field}: {problem['msg']}, got {problem['input']!r}"
