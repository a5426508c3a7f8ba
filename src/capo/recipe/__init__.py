"""The recipe: the configuration of a run, strict and typed.

A recipe is YAML with the sections `model, prompts, images, start, generate, rewards, pairs, train,
evaluate, benchmarks, report, engine`, a `name` and a `seed`. Unknown keys, wrong types and contradictions are
errors, reported together and with the nearest valid name.

    recipe = load_recipe("sdxl", ["seed=1", "train.beta=300"])
"""

from capo.recipe.fields import RUNTIME
from capo.recipe.reading import (
    RecipeError,
    dump_recipe,
    load_recipe,
    override_recipe,
    parse_recipe,
    shipped_recipes,
)
from capo.recipe.reward_sections import PairsSection, RewardSection
from capo.recipe.sample_sections import (
    GenerateSection,
    ImagesSection,
    LoraSection,
    ModelSection,
    PromptsSection,
    StartSection,
)
from capo.recipe.sections import BenchmarkSection, EngineSection, EvaluateSection, Recipe, ReportSection
from capo.recipe.train_section import TrainSection

__all__ = [
    "RUNTIME",
    "BenchmarkSection",
    "EngineSection",
    "EvaluateSection",
    "GenerateSection",
    "ImagesSection",
    "LoraSection",
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
    "override_recipe",
    "parse_recipe",
    "shipped_recipes",
]
