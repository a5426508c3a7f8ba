"""Model families: what training and sampling need of a diffusion checkpoint.

The family of a checkpoint is recognised from its `model_index.json`. Nothing heavy is imported
before `load_family` is called, so that identities can be asked for cheaply.
"""

import hashlib
from functools import cache
from importlib import import_module, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo.engine.device import quiet
from capo.recipe import ModelSection
from capo.store.step import flatten

if TYPE_CHECKING:
    import torch

    from capo.diffusion.family import Family

FAMILIES = {
    "StableDiffusionPipeline": "sd.StableDiffusion",
    "StableDiffusionXLPipeline": "sdxl.SDXL",
    "StableDiffusion3Pipeline": "sd3.SD3",
    "FluxPipeline": "flux.Flux",
    "SanaPipeline": "sana.Sana",
}
"""Pipeline class of `model_index.json` → module and class of the family."""

EMBEDDED = {"shapes": "base", "shapes-flow": "flow"}
"""Models that come with capo, and where: a DDPM U-Net as SDXL, and a rectified flow as SD3."""


def load_family(section: ModelSection, device: "torch.device") -> "Family":
    """The family of `section.checkpoint`, its denoiser on `device`.

    Text encoders and VAE are loaded when first used. Only safetensors weights are read and no code
    of the checkpoint is run. Raises `ValueError` for a checkpoint that is not there, or of a
    pipeline class that no family covers.
    """
    path = resolve_checkpoint(section.checkpoint)
    with quiet():
        index = _index(section, path)
        return _family_class(index["_class_name"])(section, path, device)


def _index(section: ModelSection, path: str) -> "dict[str, str]":
    from diffusers import DiffusionPipeline

    try:
        index: dict[str, str] = DiffusionPipeline.load_config(path, revision=section.revision)
    except OSError as error:
        raise ValueError(
            f"model.checkpoint: {section.checkpoint!r} is neither a diffusers directory (one with a "
            f"model_index.json) nor a Hub id that can be read from here: {error}"
        ) from error
    return index


def _family_class(pipeline: str) -> "type[Family]":
    if pipeline not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ValueError(f"model.checkpoint: a {pipeline} is no model family known here ({known})")
    module, name = FAMILIES[pipeline].split(".")
    family: type[Family] = getattr(import_module(f"capo.diffusion.{module}"), name)
    return family


def resolve_checkpoint(name: str) -> str:
    """The directory or Hub id that `name` means: that of a model in the package, or `name` itself."""
    if name in EMBEDDED:
        return str(resources.files("capo") / "shapes" / "checkpoints" / EMBEDDED[name])
    return name


def model_inputs(section: ModelSection) -> dict[str, Any]:
    """The part of a fingerprint that says which model an artifact is made with."""
    weights = checkpoint_identity(section.checkpoint, section.revision)
    return flatten("model", section.results()) | {"model.weights": weights}


def checkpoint_identity(name: str, revision: str | None) -> str:
    """What tells these weights from any others: a digest of the files, or `hub-id@revision`.

    A local directory has the same identity wherever it lies. Its hidden files do not count.
    """
    path = Path(resolve_checkpoint(name))
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path)))
        return _digest(path, tuple((p, p.stat().st_size, p.stat().st_mtime_ns) for p in files))
    return f"{name}@{revision or 'main'}"


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


@cache  # Several stages ask; big checkpoints take seconds. Sizes and times tell a changed file.
def _digest(root: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path, size, _ in files:
        digest.update(f"{path.relative_to(root).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return f"blake2b:{digest.hexdigest()}"
