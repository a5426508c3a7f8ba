"""The subject of a benchmark: an architecture with random weights, or a recipe with its own weights."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from capo.cost.checkpoints import SHRINK, TINY, write_checkpoint
from capo.diffusion import load_family
from capo.diffusion.architectures import PARTS
from capo.diffusion.components import PartLoader, load_part
from capo.diffusion.family import Family
from capo.diffusion.random_weights import RandomWeights
from capo.engine.device import select_device
from capo.prompts import Prompt, make_prompt
from capo.recipe import ModelSection, Recipe, load_recipe

SIDES = {"sd15": 512}
"""Image side in pixels of architectures that differ from `SIDE`."""
SIDE = 1024


@dataclass(frozen=True)
class Subject:
    """A recipe to measure on `device`, and a temporary folder."""

    name: str
    recipe: Recipe
    device: torch.device
    folder: Path
    load_part: PartLoader = load_part

    def family(self, section: ModelSection) -> Family:
        """Load the model of `section` on the device."""
        return load_family(section, self.device, self.load_part)


@contextmanager
def subject(architecture: str | None, recipe: str | None, overrides: Sequence[str]) -> Iterator[Subject]:
    """Yield what `--arch` or `--recipe` selects; with both, the recipe's settings on random weights.

    Raises `RecipeError` for an invalid recipe and `ValueError` for an unknown architecture.
    """
    with tempfile.TemporaryDirectory(prefix="capo-bench-") as temporary:
        folder = Path(temporary)
        if architecture is None:
            loaded = load_recipe(recipe or "shapes", overrides)
            yield Subject(loaded.name, loaded, select_device(loaded.engine), folder)
            return
        checkpoint = str(write_checkpoint(architecture, folder / "checkpoint"))
        if recipe is None:
            file = folder / "recipe.yaml"
            loaded = _default_recipe(architecture, checkpoint, file, overrides)
        else:
            loaded = load_recipe(recipe, [*overrides, f"model.checkpoint={checkpoint}"])
        device = select_device(loaded.engine)
        yield Subject(architecture, loaded, device, folder, RandomWeights(device))


def changed(recipe: Recipe, **sections: dict[str, Any]) -> Recipe:
    """Return the recipe with some fields of its sections replaced: `changed(recipe, train={"steps": 3})`."""
    update = {name: getattr(recipe, name).model_copy(update=values) for name, values in sections.items()}
    return recipe.model_copy(update=update)


def prompts(count: int) -> list[Prompt]:
    """Return `count` different prompts of about the same length."""
    return [make_prompt(f"a red circle above {number} blue squares") for number in range(count)]


def _default_recipe(architecture: str, checkpoint: str, file: Path, overrides: Sequence[str]) -> Recipe:
    import yaml

    tiny, name = architecture.startswith(TINY), architecture.removeprefix(TINY)
    flow = PARTS[name]["scheduler"][0].startswith("Flow")
    side = SIDES.get(name, SIDE) // (SHRINK if tiny else 1)
    values = {
        "name": architecture,
        "model": {"checkpoint": checkpoint, "dtype": "float32" if tiny else "bfloat16"},
        "prompts": {"source": "shapes:train"},
        "generate": {
            "scheduler": "FlowMatchEulerDiscreteScheduler" if flow else "DDIMScheduler",
            "height": side,
            "width": side,
            "samples_per_prompt": 4 if tiny else 16,
            "num_inference_steps": 10 if tiny else 50,
        },
        "rewards": [{"name": f"shapes-{name}"} for name in ("preference", "vqa", "aesthetic")],
        "train": {"beta": 300, "global_batch_size": 4 if tiny else 2},
        "evaluate": {"prompts": {"source": "shapes:test"}},
    }
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return load_recipe(file, overrides)
