"""The two sides of an evaluation: a policy, a LoRA, a whole model, or existing images.

runs/first, soups/all                    a run's policy, or any folder with a capo.json
style.safetensors, a folder with one     a LoRA of the recipe's model, as diffusers, kohya or PEFT write it
./other-model, owner/name@revision       a whole model: a diffusers directory or a Hub id
other.safetensors                        a whole model in one file, with the recipe's `model.config`
./images, hub:owner/name                 images with their prompts, as `images.source` names them
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo import diffusion
from capo.diffusion.saved import BEST, LORA, PEFT_CONFIG, SavedPolicy, find_policy, is_policy
from capo.images import images_identity, open_images
from capo.images.evaluation_import import EvaluationImages, match_images
from capo.prompts import PromptsError, load_prompts
from capo.recipe import EvaluateSection, ImagesSection, ModelSection, Recipe
from capo.recipe.hub_id import HUB_ID
from capo.scoring.judging import check_size
from capo.store import Artifact
from capo.store.manifest import identify

if TYPE_CHECKING:
    import torch

    from capo.diffusion.family import Family


CHECKPOINTS = ("train", "checkpoints")
"""The end of the path of a run's folder of checkpoints."""


def _fits(model: ModelSection) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One side of an evaluation. Its images either come from a model that it loads, or exist already."""

    name: str
    """Its name in the results."""
    identity: str
    """Identifies everything its images depend on, apart from the recipe's settings."""
    load: "Callable[[ModelSection, torch.device], Family] | None" = None
    """Loads the model that makes its images, given the recipe's model; None if they exist already.

    Picklable, since other processes may load it."""
    whole_model: bool = False
    """True if it needs no weights of the recipe's model."""
    existing: ImagesSection | None = None
    """The location of the existing images."""
    record: dict[str, Any] = field(default_factory=dict)
    """The `capo.json` of a policy."""
    check: Callable[[ModelSection], None] = _fits
    """Raises `ValueError` if it does not fit the recipe's model; loads none of the model's weights."""


def tuned(section: EvaluateSection, train: Artifact) -> Candidate:
    """The candidate to evaluate: `evaluate.policy`, or else the policy in `train`."""
    return trained(train) if section.policy is None else find_candidate("evaluate.policy", section.policy)


def trained(train: Artifact) -> Candidate:
    """The best policy of a run, in its artifact `train`."""
    return _policy(find_policy(train.path("best")), "train/best")


def against(section: EvaluateSection, model: ModelSection) -> Candidate:
    """The candidate to compare it with: `evaluate.against`, or else the recipe's own model."""
    if section.against is not None:
        return find_candidate("evaluate.against", section.against)
    return base_model(model)


def base_model(model: ModelSection) -> Candidate:
    """The recipe's own model."""
    identity = diffusion.model_identity(model)
    return Candidate(name=model.checkpoint, identity=identity, load=_load_base)


def _load_base(model: ModelSection, device: "torch.device") -> "Family":
    return diffusion.load_family(model, device)


def check_candidates(recipe: Recipe) -> None:
    """Raise `ValueError` if a candidate does not fit the recipe's model or prompts; to fail early."""
    section = recipe.evaluate
    for field_name, value in (("evaluate.policy", section.policy), ("evaluate.against", section.against)):
        if value is not None:
            candidate = find_candidate(field_name, value)
            candidate.check(recipe.model)
            if candidate.existing is not None:
                _check_images(field_name, candidate.existing, recipe)


def _check_images(field_name: str, images: ImagesSection, recipe: Recipe) -> None:
    """Raise `ValueError` unless there are enough images of every evaluation prompt; decodes none."""
    section = recipe.evaluate
    try:
        prompts = load_prompts(section.prompts, recipe.seed, "evaluate.prompts")
    except PromptsError:  # reported by the check of the prompts
        return
    request = EvaluationImages(
        section=images,
        prompts=prompts,
        samples=section.samples_per_prompt,
        field="evaluate.samples_per_prompt",
        shard_prompts=recipe.generate.shard_prompts,
        check=partial(check_size, section.judge),
        purpose="evaluate",
    )
    try:
        match_images(request, open_images(images))
    except ValueError as error:
        raise ValueError(f"{field_name}: {str(error).removeprefix('images.source: ')}") from error


def candidate_identity(field_name: str, value: str) -> str:
    """The identity of the candidate that `value` names, or the reason why there is none, as `Unknown`."""
    identity: str = identify(field_name, lambda: find_candidate(field_name, value).identity)
    return identity


def find_candidate(field_name: str, value: str) -> Candidate:
    """The candidate that `value`, from a field of the recipe, names.

    Raises `ValueError` if it names nothing that exists and can be evaluated.
    """
    from capo.diffusion.single_file import is_checkpoint_file

    path = Path(diffusion.resolve_checkpoint(value))
    if value.startswith("hub:"):
        return _images(value)
    if is_policy(path):
        return _policy(find_policy(path), value)
    lora = path if path.suffix == ".safetensors" else path / LORA
    if lora == path and is_checkpoint_file(path):
        return _model(field_name, value)
    if lora.is_file():
        return _lora(field_name, value, lora)
    if (path / PEFT_CONFIG).is_file():
        return _lora(field_name, value, path)
    if (path / "model_index.json").is_file() or (not path.exists() and HUB_ID.fullmatch(value)):
        return _model(field_name, value)
    if path.is_dir() and path.parent.parts[-2:] == CHECKPOINTS:
        raise ValueError(
            f"{field_name}: {value} is a checkpoint to resume training from, not a policy; use "
            f"{path.parent.parent / BEST}, or the folder of the run"
        )
    if path.is_dir() or path.suffix == ".parquet":
        return _images(value)
    raise ValueError(
        f"{field_name}: {value} is none of these: a run or a folder with a policy, a LoRA (.safetensors, or "
        f"a folder with {LORA}), a diffusers directory, a Hub id as owner/name, or a folder of images"
    )


def _policy(saved: SavedPolicy, name: str) -> Candidate:
    return Candidate(
        name=name,
        identity=saved.identity,
        load=partial(_load_policy, saved),
        record=saved.record,
        check=partial(_check_policy, saved),
    )


def _load_policy(saved: SavedPolicy, model: ModelSection, device: "torch.device") -> "Family":
    from capo.diffusion.policy import load_policy

    saved.check_base(model)
    family = diffusion.load_family(model, device)
    load_policy(family, saved.folder)
    return family


def _check_policy(saved: SavedPolicy, model: ModelSection) -> None:
    saved.check_base(model)
    if saved.record["adaptation"] == "lora":
        diffusion.check_lora(model, saved.folder)


def _lora(field_name: str, value: str, file: Path) -> Candidate:
    if file.is_dir():  # the settings are in a second file
        identity = diffusion.checkpoint_identity(str(file), None)
    else:
        with file.open("rb") as opened:
            identity = f"blake2b:{hashlib.file_digest(opened, 'blake2b').hexdigest()}"
    load, check = partial(_load_lora, file), partial(_check_lora, field_name, file)
    return Candidate(name=value, identity=identity, load=load, check=check)


def _load_lora(file: Path, model: ModelSection, device: "torch.device") -> "Family":
    family = diffusion.load_family(model, device)
    family.load_lora(file)
    return family


def _check_lora(field_name: str, file: Path, model: ModelSection) -> None:
    try:
        diffusion.check_lora(model, file)
    except ValueError as error:
        raise ValueError(f"{field_name}: {error}") from error


def _model(field_name: str, value: str) -> Candidate:
    checkpoint, _, revision = value.partition("@") if not Path(value).exists() else (value, "", "")
    identity = diffusion.checkpoint_identity(checkpoint, revision or None)
    load = partial(_load_other, field_name, checkpoint, revision)
    return Candidate(name=value, identity=identity, load=load, whole_model=True)


def _load_other(
    field_name: str, checkpoint: str, revision: str, model: ModelSection, device: "torch.device"
) -> "Family":
    other: dict[str, Any] = {"checkpoint": checkpoint, "revision": revision or None}
    other |= {
        "variant": None,
        "loras": (),
        "config": model.config if Path(checkpoint).is_file() else None,
    }
    try:
        return diffusion.load_family(model.model_copy(update=other), device)
    except ValueError as error:
        raise ValueError(f"{field_name}: {error}") from error


def _images(value: str) -> Candidate:
    section = ImagesSection(source=value)
    return Candidate(name=value, identity=images_identity(section), existing=section)
