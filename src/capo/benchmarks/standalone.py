"""The recipe that measures a model on a benchmark without a recipe of its own.

Model and sampler come from the run that made the model, or from the shipped recipe of the same architecture.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capo import diffusion
from capo.diffusion.saved import BEST
from capo.evaluation.candidates import Candidate, find_candidate
from capo.recipe import (
    ModelSection,
    Recipe,
    RecipeError,
    load_recipe,
    parse_recipe,
    shipped_recipes,
)

RECIPES = {
    "StableDiffusionPipeline": "sd15",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux",
}
"""The shipped recipe whose sampler suits a pipeline class."""

WITHOUT_MODEL = "shapes"
"""The shipped recipe for existing images, which need no model."""


def standalone_recipe(benchmark: str, model: str, field: str) -> Recipe:
    """Return a recipe whose model and sampler suit `model`, named after both.

    Raises `RecipeError` if they cannot be known: for a LoRA, and for a model of another architecture. Errors
    begin with `field`, the option that names the model.
    """
    recipe = _own_recipe(model) or _shipped_recipe(model, field)
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model.rstrip("/")).name).strip("-._") or "model"
    values = recipe.model_dump() | {"name": f"{benchmark}-{slug}"[:64], "benchmarks": [], "start": None}
    values["evaluate"] |= {"policy": None, "against": None}
    return parse_recipe(values, field)


def with_benchmark(recipe: Recipe, name: str, given: Mapping[str, Any]) -> Recipe:
    """Return the recipe with the section of the benchmark `name`, changed by the fields that are `given`.

    A section that is new, or gets another model, measures this one alone unless the command names another
    to compare it with. Raises `RecipeError` for values that do not fit.
    """
    sections = {section.name: section.model_dump() for section in recipe.benchmarks}
    section = sections.get(name, {"name": name})
    if given.get("model") is not None:
        section |= {"against": None, "compare": given.get("against") is not None}
    elif given.get("against") is not None:
        section["compare"] = True
    section |= {field: value for field, value in given.items() if value is not None}
    values = recipe.model_dump() | {"benchmarks": [*({**sections, name: section}).values()]}
    changed = parse_recipe(values, f"benchmarks.{name}")
    return changed if recipe.written is None else changed.with_written(recipe.written)


def _own_recipe(model: str) -> Recipe | None:
    """Return the recipe of the run that `model` is, or is the best policy of."""
    path = Path(model)
    folders = [path] if path.parts[-2:] != ("train", BEST) else [path, path.parent.parent]
    files = [folder / "recipe.yaml" for folder in folders]
    return next((load_recipe(file) for file in files if file.is_file()), None)


def _shipped_recipe(model: str, field: str) -> Recipe:
    checkpoint, _, revision = model.partition("@") if not Path(model).exists() else (model, "", "")
    shipped = [load_recipe(name) for name in shipped_recipes()]
    for recipe in shipped:
        if recipe.model.checkpoint == checkpoint and revision in ("", recipe.model.revision):
            return recipe
    candidate = find_candidate(field, model)
    if candidate.existing is not None:
        return load_recipe(WITHOUT_MODEL)
    section = _model(candidate, checkpoint, revision, field)
    for recipe in shipped:  # a policy of a model that has a recipe
        if recipe.model.checkpoint == section.checkpoint:
            return recipe
    name = RECIPES.get(pipeline := _pipeline_name(section))
    if name is None:
        raise RecipeError(
            f"{field}: no shipped recipe samples from {pipeline}; name a recipe with its sampler"
        )
    recipe = load_recipe(name)
    return recipe.model_copy(update={"model": section.model_copy(update={"dtype": recipe.model.dtype})})


def _model(candidate: Candidate, checkpoint: str, revision: str, field: str) -> ModelSection:
    """The section of the model that the candidate is, or was tuned from."""
    if candidate.whole_model:
        return ModelSection(checkpoint=checkpoint, revision=revision or None)
    if "model" not in candidate.record:
        raise RecipeError(
            f"{field}: {checkpoint} is a LoRA; also name a recipe with the model that it belongs to"
        )
    return ModelSection(**candidate.record["model"])


def _pipeline_name(section: ModelSection) -> str:
    """Return the name of the pipeline class of a model; reads its configurations only."""
    name: str = diffusion.load_weightless(section).pipeline_class.__name__
    return name
