"""Study files: which settings are compared, strict and typed.

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
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from capo.recipe import Recipe, RecipeError, load_recipe
from capo.recipe.fields import Name
from capo.recipe.hints import nearest
from capo.recipe.yaml_files import read_yaml
from capo.studies.fronts import Front, FrontSection, expanded, front_problems

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
"""The quick form of any study: it shows that everything runs, and nothing else."""

QUICK_SUFFIX = "-quick"
"""Of its name, and so of its folder."""

Settings = dict[str, JsonValue]
"""Recipe fields by their dotted names, as `--set` has them."""

FIGURES = "figures"
"""The folder of a study's figures, beside those of its rows."""

DECIDED = ("name", "seed", "start.run")
"""Recipe fields that the study itself gives its runs."""


class StudyError(RecipeError):
    """A study that cannot be used; the message lists every problem found, one a line."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LevelSection(_Section):
    """One value of what varies."""

    set: Settings = {}
    tune: str | None = Field(None, description="how its settings were found")


class RowSection(LevelSection):
    """A row of its own; with `soup`, the policies of those rows merged instead of one trained."""

    name: Name
    start: Name | None = Field(None, description="the row whose policy it goes on from, as a further round")
    soup: tuple[Name, ...] = ()
    weights: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = Field(
        (), description="of the policies of a soup; equal when left out"
    )
    interpolation: Literal["slerp", "linear"] = Field("slerp", description="of the policies of a soup")


class StudySection(_Section):
    """A study file as it is written."""

    name: Name
    title: str
    recipe: str = Field(description="a shipped recipe's name or a YAML file, where all runs start from")
    set: Settings = {}
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0, 1, 2), min_length=1)
    vary: dict[Name, dict[Name, LevelSection]] = {}
    rows: tuple[RowSection, ...] = ()
    fronts: tuple[FrontSection, ...] = ()
    against: Name | None = Field(None, description="the row that others are compared with; the first if null")
    quick: Settings = Field({}, description="settings of the quick form that win over those of rows")


@dataclass(frozen=True)
class Row:
    """One line of the table: what it sets besides the base recipe."""

    name: str
    own: Settings
    """What sets it apart from the other rows."""
    tune: str | None
    soup: tuple[str, ...]
    weights: tuple[float, ...] = ()
    """Of the policies of a soup; equal when there are none."""
    start: str | None = None
    """The row whose policy a further round goes on from."""
    interpolation: Literal["slerp", "linear"] = "slerp"
    """Of the policies of a soup."""


@dataclass(frozen=True)
class Study:
    """What is compared; `shared` settings are those of all rows."""

    name: str
    title: str
    recipe: str
    shared: Settings
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    against: str
    fronts: tuple[Front, ...] = ()
    quick: bool = False
    quick_settings: Settings = field(default_factory=dict)
    """What wins over all other settings in the quick form."""

    def row_recipe(self, row: Row, seed: int, folder: Path = Path()) -> Recipe:
        """The recipe of one run of the study in `folder`; raises `RecipeError` naming the row."""
        try:
            return load_recipe(self.recipe, overrides(self.run_settings(row, seed, folder)))
        except RecipeError as error:
            raise StudyError(f"study {self.name}, row {row.name}: {error}") from None

    def run_settings(self, row: Row, seed: int, folder: Path = Path()) -> Settings:
        """All that one run of the study in `folder` sets besides the base recipe."""
        start = {} if row.start is None else {"start.run": str(run_directory(folder, row.start, seed))}
        return {**self.shared, **row.own, "name": row.name, "seed": seed, **start}

    def only(self, seeds: Collection[int] | None) -> "Study":
        """The study of some of its seeds, of all when None; raises `StudyError` for one that it has not."""
        if seeds is None:
            return self
        if unknown := sorted(set(seeds) - set(self.seeds)):
            known = ", ".join(map(str, self.seeds))
            raise StudyError(f"--seeds: study {self.name} has no seed {unknown[0]}, but {known}")
        return replace(self, seeds=tuple(seed for seed in self.seeds if seed in seeds))

    def rounds_before(self, row: Row) -> list[str]:
        """The rows that a row goes on from, the first round last."""
        return _before(row.name, {each.name: each.start for each in self.rows})


def run_directory(folder: Path, row: str, seed: int) -> Path:
    """Where the study in `folder` has the run of a row."""
    return folder / row / f"seed-{seed}"


def overrides(settings: Settings) -> list[str]:
    """Settings as `--set` takes them."""
    return [f"{key}={_yaml(value)}" for key, value in settings.items()]


def load_study(name_or_path: str | Path, *, quick: bool = False, against: str | None = None) -> Study:
    """A shipped study by name, or one from a YAML file; every row's recipe is checked.

    `quick` makes of it the form that only shows that everything runs: one seed, `QUICK` settings.
    Raises `StudyError` naming every field that is wrong.
    """
    path = _find(name_or_path)
    try:
        values = read_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(values, dict):
        raise StudyError(f"{path}: a study is a mapping with name, title, recipe, and vary or rows")
    try:
        section = StudySection.model_validate(values)
    except ValidationError as error:
        raise StudyError("\n  ".join([f"{path}:", *map(_explain, error.errors())])) from None
    rows = (
        *_crossed(section),
        *(
            Row(r.name, dict(r.set), r.tune, r.soup, r.weights, r.start, r.interpolation)
            for r in section.rows
        ),
    )
    trained = [row.name for row in rows if not row.soup]
    if problems := list(front_problems(section.fronts, trained)):
        raise StudyError("\n  ".join([f"{path}:", *problems]))
    fronts = tuple(map(expanded, section.fronts))
    mixed = [Row(name, {}, None, front.of, w) for front in fronts for name, w in front.soups.items()]
    rows = (*rows, *mixed)
    if problems := list(_problems(section, rows, against)):
        raise StudyError("\n  ".join([f"{path}:", *problems]))
    study = Study(
        section.name,
        section.title,
        section.recipe,
        dict(section.set),
        rows,
        section.seeds,
        against or section.against or rows[0].name,
        fronts,
        quick_settings=dict(section.quick),
    )
    if quick:
        study = _quick(study)
    recipes = [study.row_recipe(row, study.seeds[0]) for row in study.rows]
    if fronts and any(len(recipe.training_rewards) < 2 for recipe in recipes):
        raise StudyError(f"{path}: fronts: a front is of two training rewards or more")
    return study


def shipped_studies() -> dict[str, Path]:
    """Name and path of every study that comes with the package."""
    folder = Path(str(resources.files("capo") / "studies" / "data"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _find(name_or_path: str | Path) -> Path:
    path, shipped = Path(name_or_path), shipped_studies()
    if path.is_file():
        return path
    if str(name_or_path) in shipped:
        return shipped[str(name_or_path)]
    near = nearest(str(name_or_path), shipped)
    raise StudyError(f"no study {str(name_or_path)!r}: neither a file nor one of {', '.join(shipped)}{near}")


def _crossed(section: StudySection) -> Iterator[Row]:
    """A row for every choice of a level on each axis."""
    if not section.vary:
        return
    for chosen in itertools.product(*(levels.items() for levels in section.vary.values())):
        own: Settings = {}
        for _, level in chosen:
            own |= level.set
        notes = "; ".join(level.tune for _, level in chosen if level.tune)
        yield Row("-".join(name for name, _ in chosen), own, notes or None, ())


def _problems(section: StudySection, rows: Sequence[Row], against: str | None) -> Iterator[str]:
    names = [row.name for row in rows]
    if not rows:
        yield "vary, rows: a study needs rows"
    for name in sorted({n for n in names if names.count(n) > 1}):
        yield f"rows: {name!r} is there more than once"
    if FIGURES in names:
        yield f"rows: {FIGURES!r} is the folder of the study's figures, give the row another name"
    if len(set(section.seeds)) < len(section.seeds):
        yield f"seeds: one is there more than once in {list(section.seeds)}"
    for axis, other in itertools.combinations(section.vary, 2):
        keys = [{key for level in section.vary[a].values() for key in level.set} for a in (axis, other)]
        for key in sorted(keys[0] & keys[1]):
            yield f"vary: {axis} and {other} both set {key}"
    for key in DECIDED:
        if any(key in settings for settings in (section.set, section.quick, *(row.own for row in rows))):
            yield f"set: {key} is given by the study to each of its runs; leave it out"
    for wanted in (section.against, against):
        if wanted is not None and wanted not in names:
            yield f"against: no row {wanted!r}{nearest(wanted, names)}"
    trained = [row.name for row in rows if not row.soup]
    yield from _of_rounds(rows, trained)
    for row in rows:
        for name in row.soup:
            if name not in trained:
                yield f"rows.{row.name}.soup: no trained row {name!r}{nearest(name, trained)}"
        if len(row.soup) == 1:
            yield f"rows.{row.name}.soup: a soup needs two rows at least"
        if row.weights and len(row.weights) != len(row.soup):
            yield f"rows.{row.name}.weights: {len(row.weights)} weights for a soup of {len(row.soup)} rows"
        if row.weights and not any(row.weights):
            yield f"rows.{row.name}.weights: all are 0"
        if row.interpolation != "slerp" and not row.soup:
            yield f"rows.{row.name}.interpolation: only a soup has one"


def _of_rounds(rows: Sequence[Row], trained: Sequence[str]) -> Iterator[str]:
    starts = {row.name: row.start for row in rows}
    for row in rows:
        if row.start is None:
            continue
        if row.soup:
            yield f"rows.{row.name}.start: a soup is not trained, it starts from nothing"
        elif row.start not in trained:
            yield f"rows.{row.name}.start: no trained row {row.start!r}{nearest(row.start, trained)}"
        elif row.name in _before(row.name, starts):
            yield f"rows.{row.name}.start: it comes back to itself"


def _before(row: str, starts: Mapping[str, str | None]) -> list[str]:
    """The rows that one goes on from, the last first; ends where it would go round."""
    found: list[str] = []
    following = starts.get(row)
    while following is not None and following not in found:
        found.append(following)
        following = starts.get(following)
    return found


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


def _yaml(value: JsonValue) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("...\n").strip()
