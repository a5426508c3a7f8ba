"""Find, override, validate and write recipes."""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from capo.recipe.fields import Section
from capo.recipe.hidden_contradictions import hidden_contradictions
from capo.recipe.hints import nearest
from capo.recipe.paths import resolve_paths
from capo.recipe.sections import Recipe
from capo.recipe.yaml_files import read_yaml


class RecipeError(ValueError):
    """A recipe that cannot be used; the message lists every problem on its own line."""


def load_recipe(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Load a shipped recipe by name, a YAML file, or a mapping of sections, and apply overrides `a.b=c`.

    Relative paths in a file are relative to its folder, or else to the current directory, as those in
    overrides are (see `recipe.paths`). The value of an override is YAML (`train.steps=100`,
    `rewards.0.weight=2`, `train.lora_targets=[to_q]`). Raises `RecipeError` naming every invalid field.
    """
    if isinstance(source, Mapping):
        values = deepcopy(dict(source))
        _override_all(values, overrides)
        return parse_recipe(values)
    path = _find(source)
    try:
        text = path.read_text(encoding="utf-8")
        values = read_yaml(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: a recipe must be a mapping of sections")
    users = path not in shipped_recipes().values() and not _in_a_run(path)
    if users:
        resolve_paths(values, [path.parent])
    _override_all(values, overrides)
    changed = "".join(f" --set {override}" for override in overrides)
    recipe = parse_recipe(values, f"{path}{changed}")
    return recipe.with_written(text) if users else recipe


def parse_recipe(values: dict[str, Any], where: str = "recipe") -> Recipe:
    """Validate plain values; `where` is their file, for errors.

    Relative paths that exist in the current directory become absolute.
    """
    values = deepcopy(values)
    resolve_paths(values, [Path.cwd()])
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        lines += hidden_contradictions(values, error.errors())
        raise RecipeError("\n  ".join([f"{where}:", *lines])) from None


def override_recipe(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Return the recipe with overrides `a.b=c` applied, as `load_recipe` does."""
    values = recipe.model_dump(mode="json")
    for override in overrides:
        _override(values, override)
    return parse_recipe(values, "".join(f" --set {override}" for override in overrides).strip() or "recipe")


def shipped_recipes() -> dict[str, Path]:
    """Return the name and path of every recipe that comes with capo."""
    folder = Path(str(resources.files("capo") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def dump_recipe(recipe: Recipe) -> str:
    """Return YAML with every default written out; loading it gives the same recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if str(name_or_path) in shipped:
        return shipped[str(name_or_path)]
    near = nearest(str(name_or_path), shipped)
    raise RecipeError(
        f"no recipe {str(name_or_path)!r}: it is neither a file nor one of {', '.join(shipped)}{near}"
    )


def _in_a_run(path: Path) -> bool:
    """Report whether a recipe was saved in a run directory, with absolute paths or those of version 0.1."""
    return any((path.parent / name).exists() for name in (".capo", "manifests"))


def _override_all(values: dict[str, Any], overrides: Sequence[str]) -> None:
    for override in overrides:
        _override(values, override)


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {override}: expected KEY=VALUE, such as train.steps=100")
    try:
        value = read_yaml(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override}: the value is not valid YAML: {error}") from error
    *parents, last = key.strip().split(".")
    place: Any = values
    try:
        for part in parents:
            if isinstance(place, list):
                place = place[int(part)]
            else:
                if place.get(part) is None:
                    place[part] = {}
                place = place[part]
        place[int(last) if isinstance(place, list) else last] = value
    except (IndexError, ValueError, TypeError, AttributeError):
        raise RecipeError(f"--set {override}: the recipe has no field {key!r}") from None


def _explain(problem: Any) -> str:
    """Turn an error of pydantic into `field: what is wrong`."""
    location = [str(part) for part in problem["loc"]]
    field = ".".join(location) or "recipe"
    if problem["type"] == "extra_forbidden":
        known = _fields_at(location[:-1])
        return f"{field}: unknown key{nearest(location[-1], known)}"
    if problem["type"] == "missing":
        return f"{field}: missing"
    message = problem["msg"].removeprefix("Value error, ")
    value = problem["input"]
    if problem["type"] == "literal_error":
        message += nearest(str(value), re.findall(r"'([^']*)'", problem["ctx"]["expected"]))
    got = "" if isinstance(value, dict | list | BaseModel) else f", got {value!r}"
    return message if field == "recipe" else f"{field}: {message}{got}"


def _fields_at(location: Sequence[str]) -> list[str]:
    """The keys of the section at `location`."""
    section: Any = Recipe
    for part in location:
        if part.isdigit():
            continue
        annotation = section.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, Section))
    return list(section.model_fields)
