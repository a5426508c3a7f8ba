"""Model families: what training and sampling need of a diffusion checkpoint.

A checkpoint's family follows from its `model_index.json`. Heavy libraries are imported only by
`load_family`, so that asking for identities stays cheap.
"""

import hashlib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo.engine.model_loading import quiet
from capo.recipe import ModelSection
from capo.recipe.hub_id import split_revision
from capo.recipe.plugins import CHECKPOINTS, load_plugin, plugins
from capo.store.file_digests import file_digests
from capo.store.step import flatten

if TYPE_CHECKING:
    import torch

    from capo.diffusion.components import PartLoader, Source
    from capo.diffusion.family import Family

FAMILIES = {
    "StableDiffusionPipeline": "sd.StableDiffusion",
    "StableDiffusionXLPipeline": "sdxl.SDXL",
    "StableDiffusion3Pipeline": "sd3.SD3",
    "FluxPipeline": "flux.Flux",
    "SanaPipeline": "sana.Sana",
}
"""Pipeline class of `model_index.json` → module and class of the family."""


def load_family(
    section: ModelSection, device: "torch.device", load_part: "PartLoader | None" = None
) -> "Family":
    """Load the family of `section.checkpoint`, with its denoiser on `device`.

    Text encoders and VAE are loaded when first used. Reads only safetensors weights and runs no code of
    the checkpoint; `load_part` replaces how networks are loaded. Raises `ValueError` for a checkpoint that
    does not exist, is malformed, or has a pipeline class that no family covers.
    """
    from capo.diffusion import components

    with quiet():
        source = locate(section)
        kind = _family_class(_pipeline_name(section, source))
        return kind(section, source, device, load_part or components.load_part)


def locate(section: ModelSection) -> "Source":
    """Return the location of the model's weights and configurations.

    Raises `ValueError` for a single file whose configuration is unknown or cannot be read.
    """
    from capo.diffusion.components import Source
    from capo.diffusion.single_file import is_single_file, locate_file

    path = resolve_checkpoint(section.checkpoint)
    if is_single_file(path):
        return locate_file(section, path)
    if section.config is not None:
        raise ValueError(
            f"model.config: applies only to a single .safetensors file, and {section.checkpoint} is none; "
            "remove this field"
        )
    return Source(path, section.revision, section.variant)


def load_weightless(section: ModelSection) -> "Family":
    """Load the family of a checkpoint without weights: its configurations and tokenizers only.

    Its networks are on torch's `meta` device and compute shapes, but no values.
    """
    import torch

    from capo.diffusion.random_weights import RandomWeights

    meta = torch.device("meta")
    plain = section.model_copy(update={"attention": None, "channels_last": False, "compile": False})
    return load_family(plain, meta, RandomWeights(meta))


def check_lora(section: ModelSection, path: Path) -> None:
    """Raise `ValueError` naming the file unless a LoRA file, or the one in a folder, fits the model.

    Reads the configurations of `section.checkpoint` but none of its weights.
    """
    load_weightless(section).load_lora(path)


def _pipeline_name(section: ModelSection, source: "Source") -> str:
    from diffusers import DiffusionPipeline

    try:
        index = DiffusionPipeline.load_config(source.path, revision=source.revision)
    except OSError as error:
        raise ValueError(
            f"model.checkpoint: {section.checkpoint!r} is neither a diffusers directory (one with a "
            "model_index.json), nor a .safetensors file, nor a Hub id that can be read from here: "
            f"{error}"
        ) from error
    if wrong := _malformed(index):
        raise ValueError(
            f"model.checkpoint: the model_index.json of {section.checkpoint} is malformed: {wrong}"
        )
    name: str = index["_class_name"]
    return name


def _malformed(index: Any) -> str | None:
    """Return what keeps `index` from being a `model_index.json`, or None."""
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        return "it must be an object whose _class_name is the name of a pipeline"
    for name, entry in index.items():
        pair = isinstance(entry, list) and len(entry) == 2
        if isinstance(entry, list) and not (pair and all(isinstance(e, str | None) for e in entry)):
            return f"{name} must be a pair of library and class"
    return None


def _family_class(pipeline: str) -> "type[Family]":
    if pipeline not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ValueError(f"model.checkpoint: no model family covers {pipeline}; supported: {known}")
    module, name = FAMILIES[pipeline].split(".")
    family: type[Family] = getattr(import_module(f"capo.diffusion.{module}"), name)
    return family


def resolve_checkpoint(name: str) -> str:
    """Return the directory or Hub id that the recipe's `name` means.

    An installed package may supply the name, as an entry point of the group `capo.checkpoints`: a
    function without arguments that returns the directory or Hub id.
    """
    if is_plugin_checkpoint(name):
        return str(load_plugin(CHECKPOINTS, name, "model.checkpoint")())
    return name


def is_plugin_checkpoint(name: str) -> bool:
    """Return whether an installed package supplies the checkpoint `name`."""
    return name in plugins(CHECKPOINTS)


def model_inputs(section: ModelSection) -> dict[str, Any]:
    """Return the part of a fingerprint that identifies the model an artifact is made with."""
    inputs = flatten("model", section.results()) | {"model.weights": model_identity(section)}
    if section.config is not None:
        inputs["model.config.content"] = checkpoint_identity(*split_revision(section.config))
    return inputs


def model_identity(section: ModelSection) -> str:
    """Return a digest of the weights that all stages start from, or `hub-id@revision`.

    The contents of `model.loras` and their weights follow it. Raises `ValueError` for a LoRA that is missing.
    """
    parts = [checkpoint_identity(section.checkpoint, section.revision)]
    for position, lora in enumerate(section.loras):
        if not Path(lora.path).exists():
            raise ValueError(f"model.loras.{position}.path: {lora.path} is neither a file nor a folder")
        parts.append(f"{checkpoint_identity(lora.path, None)}*{lora.weight!r}")
    return "+".join(parts)


def checkpoint_identity(name: str, revision: str | None) -> str:
    """Return a digest of the checkpoint's files, or `hub-id@revision`.

    A local file or directory has the same identity wherever it is. Hidden files do not count.
    """
    path = Path(resolve_checkpoint(name))
    if path.is_file():
        return f"blake2b:{file_digests([path], size=64)[0][:32]}"
    if path.is_dir():
        return _folder_digest(path)
    return f"{name}@{revision or 'main'}"


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _folder_digest(root: Path) -> str:
    files = sorted(p for p in root.rglob("*") if p.is_file() and not _hidden(p.relative_to(root)))
    digest = hashlib.blake2b(digest_size=16)
    for path, content in zip(files, file_digests(files, size=64), strict=True):
        digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(bytes.fromhex(content))
    return f"blake2b:{digest.hexdigest()}"
