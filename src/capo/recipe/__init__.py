"""The recipe: the one configuration object of a run, strict and typed.

A recipe is YAML with the sections `model, prompts, generate, rewards, pairs, train, evaluate,
report, engine` and a `seed`. Unknown keys, wrong types and contradictions are errors, all
reported at once and with the nearest valid name.

    recipe = load_recipe("sdxl", ["seed=1", "train.beta=300"])
"""

from capo.recipe.reading import RecipeError, dump_recipe, load_recipe, parse_recipe, shipped_recipes
from capo.recipe.sections import (
    RUNTIME,
    EngineSection,
    EvaluateSection,
    GenerateSection,
    ImagesSection,
    ModelSection,
    PairsSection,
    PromptsSection,
    Recipe,
    ReportSection,
    RewardSection,
    StartSection,
    TrainSection,
)

__all__ = [
    "RUNTIME",
    "EngineSection",
    "EvaluateSection",
    "GenerateSection",
    "ImagesSection",
    "ModelSection",
    "PairsSection",
    "PromptsSection",
    "Recipe",
    "RecipeError",
    "ReportSection",
    "RewardSection",
    "StartSection",
    "TrainSection",
    "dump_recipe",
    "load_recipe",
    "parse_recipe",
    "shipped_recipes",
]
