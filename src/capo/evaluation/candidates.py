"""The two sides of an evaluation: a policy, a LoRA, a whole model, or images that are there already.

runs/first, soups/all                    a run's policy, or any folder with a capo.json
style.safetensors, a folder with one     a LoRA of the recipe's model, as diffusers writes it
./other-model, owner/name@revision       a whole model: a diffusers directory or a Hub id
./images, hub:owner/name                 images with their prompts, as `images.source` names them
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo import diffusion
from capo.diffusion.saved import LORA, PEFT_CONFIG, PEFT_HINT, SavedPolicy, find_policy, is_policy
from capo.engine.device import select_device
from capo.images import images_identity
from capo.recipe import ImagesSection, Recipe
from capo.recipe.hub_id import HUB_ID
from capo.store import Run

if TYPE_CHECKING:
    from capo.diffusion.family import Family


@dataclass(frozen=True)
class Candidate:
    """One side of an evaluation."""

    name: str
    """How the results call it."""
    identity: str
    """What tells its images from any other's, given the recipe."""
    source: "Callable[[Recipe], Family] | ImagesSection"
    """What makes its images, or where they are."""
    record: dict[str, Any] = field(default_factory=dict)
    """The `capo.json` of a policy."""
    check: "Callable[[Recipe], None]" = lambda recipe: None
    """Raises `ValueError` if the candidate does not fit the recipe's model; loads no weights of the model."""


def tuned(recipe: Recipe, run: Run) -> Candidate:
    """What is evaluated: `evaluate.policy`, else the policy that `run` trained."""
    given = recipe.evaluate.policy
    if given is None:
        return _policy(find_policy(run.artifact("train").path("best")), "train/best")
    return find_candidate("evaluate.policy", given)


def against(recipe: Recipe) -> Candidate:
    """What that is compared with: `evaluate.against`, else the recipe's own model."""
    if (given := recipe.evaluate.against) is not None:
        return find_candidate("evaluate.against", given)
    model = recipe.model
    return Candidate(model.checkpoint, diffusion.checkpoint_identity(model.checkpoint, model.revision), _base)


def check_candidates(recipe: Recipe) -> None:
    """Raise `ValueError` if a policy or LoRA does not fit the recipe's model; to fail before sampling."""
    section = recipe.evaluate
    for name, value in (("evaluate.policy", section.policy), ("evaluate.against", section.against)):
        if value is not None:
            find_candidate(name, value).check(recipe)


def find_candidate(where: str, given: str) -> Candidate:
    """What `given` names; `where` is the field of the recipe that says so.

    Raises `ValueError` for anything else, or something that is not there.
    """
    path = Path(diffusion.resolve_checkpoint(given))
    if given.startswith("hub:"):
        return _images(given)
    if is_policy(path):
        return _policy(find_policy(path), given)
    lora = path if path.suffix == ".safetensors" else path / LORA
    if lora.is_file():
        return _lora(where, given, lora)
    if (path / PEFT_CONFIG).is_file():
        raise ValueError(f"{where}: {given}: {PEFT_HINT}")
    if (path / "model_index.json").is_file() or (not path.exists() and HUB_ID.fullmatch(given)):
        return _model(where, given)
    if path.is_dir() or path.suffix == ".parquet":
        return _images(given)
    raise ValueError(
        f"{where}: {given} is none of these: a run or a folder with a policy, a LoRA (.safetensors, or a "
        f"folder with {LORA}), a diffusers directory, a Hub id as owner/name, or a folder of images"
    )


def _policy(saved: SavedPolicy, name: str) -> Candidate:
    """A policy of the recipe's model."""

    def load(recipe: Recipe) -> "Family":
        from capo.diffusion.policy import load_policy

        saved.check_base(recipe.model)
        family = _base(recipe)
        load_policy(family, saved.folder)
        return family

    def check(recipe: Recipe) -> None:
        saved.check_base(recipe.model)
        if saved.record["adaptation"] == "lora":
            diffusion.check_lora(recipe.model, saved.folder)

    return Candidate(name, saved.identity, load, saved.record, check)


def _lora(where: str, given: str, file: Path) -> Candidate:
    def load(recipe: Recipe) -> "Family":
        family = _base(recipe)
        family.load_lora(file)
        return family

    def check(recipe: Recipe) -> None:
        try:
            diffusion.check_lora(recipe.model, file)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error

    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "blake2b").hexdigest()
    return Candidate(given, f"blake2b:{digest}", load, check=check)


def _model(where: str, given: str) -> Candidate:
    name, _, revision = given.partition("@") if not Path(given).exists() else (given, "", "")

    def load(recipe: Recipe) -> "Family":
        other = {"checkpoint": name, "revision": revision or None, "variant": None}
        section = recipe.model.model_copy(update=other)
        try:
            return diffusion.load_family(section, select_device(recipe.engine))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error

    return Candidate(given, diffusion.checkpoint_identity(name, revision or None), load)


def _images(given: str) -> Candidate:
    section = ImagesSection(source=given)
    return Candidate(given, images_identity(section), section)


def _base(recipe: Recipe) -> "Family":
    return diffusion.load_family(recipe.model, select_device(recipe.engine))
