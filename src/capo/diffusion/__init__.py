"""Model families: what training and sampling need of a diffusion checkpoint.

A checkpoint's family follows from its `model_index.json`. Heavy libraries are imported only by
`load_family`, so that asking for identities stays cheap.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo.diffusion.identity import checkpoint_identity as checkpoint_identity
from capo.diffusion.identity import is_plugin_checkpoint as is_plugin_checkpoint
from capo.diffusion.identity import resolve_checkpoint as resolve_checkpoint
from capo.pretrained.model_loading import quiet
from capo.recipe import ModelSection
from capo.recipe.hub_id import split_revision
from capo.store.manifest import identify
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
    "PixArtSigmaPipeline": "pixart.PixArtSigma",
    "QwenImagePipeline": "qwen_image.QwenImage",
    "ZImagePipeline": "z_image.ZImage",
    "Flux2Pipeline": "flux2.Flux2",
    "Flux2KleinPipeline": "flux2.Flux2Klein",
}
"""Pipeline class of `model_index.json` → module and class of the family."""

OTHER_TASKS = {
    "Inpaint": "it fills in parts of an image",
    "Fill": "it fills in parts of an image",
    "Img2Img": "it changes or refines an image, like SDXL's refiner",
    "ControlNet": "it needs a control image",
    "Control": "it needs a control image",
    "Kontext": "it edits an image",
    "Edit": "it edits an image",
    "Upscale": "it enlarges an image",
}
"""Parts of the names of pipelines that do not make images from text alone."""


def load_family(
    section: ModelSection, device: "torch.device", load_part: "PartLoader | None" = None
) -> "Family":
    """Load the family of `section.checkpoint`, with its denoiser on `device`.

    Text encoders and VAE are loaded when first used. Reads only safetensors weights and runs no code of
    the checkpoint; `load_part` replaces how networks are loaded. Raises `ValueError` for a checkpoint that
    does not exist, is malformed, or has a pipeline class that no family covers.
    """
    from capo.diffusion import components
    from capo.diffusion.configuration_files import check_sizes

    with quiet():
        source = locate(section)
        kind = _family_class(_pipeline_name(section, source))
        check_sizes(Path(source.path))
        try:
            return kind(section, source, device, load_part or components.load_part)
        except (ImportError, MemoryError, OSError, RuntimeError, ValueError):
            raise
        except Exception as error:
            # The libraries build what a configuration says, and raise many types if that makes no sense.
            raise ValueError(
                f"model.checkpoint: {section.checkpoint} cannot be built as its configurations say: "
                f"{type(error).__name__}: {error}"
            ) from error


def locate(section: ModelSection) -> "Source":
    """Return the location of the model's weights and configurations.

    Raises `ValueError` for a single file whose configuration is unknown or cannot be read.
    """
    from capo.diffusion.components import Source
    from capo.diffusion.configuration_files import configuration_folder
    from capo.diffusion.single_file import is_single_file, locate_file
    from capo.diffusion.weight_files import check_variant

    path = resolve_checkpoint(section.checkpoint)
    if is_single_file(path):
        return locate_file(section, path)
    if path.endswith(".safetensors"):
        raise ValueError(f"model.checkpoint: {Path(path).absolute()} does not exist")
    if section.config is not None:
        raise ValueError(
            f"model.config: applies only to a single .safetensors file, and {section.checkpoint} is none; "
            "remove this field"
        )
    folder = str(configuration_folder(section))
    hub = None if Path(path).is_dir() else path
    source = Source(folder, hub, section.revision, section.variant)
    if section.variant is not None:
        check_variant(source)
    return source


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
        index = DiffusionPipeline.load_config(source.path)
    except OSError as error:
        raise ValueError(
            f"model.checkpoint: {section.checkpoint} is neither a diffusers directory (one with a "
            f"model_index.json), nor a .safetensors file, nor the Hub id of a diffusers model: {error}"
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
        why = next((f" ({reason})" for part, reason in OTHER_TASKS.items() if part in pipeline), "")
        raise ValueError(f"model.checkpoint: no model family covers {pipeline}{why}; supported: {known}")
    module, name = FAMILIES[pipeline].split(".")
    family: type[Family] = getattr(import_module(f"capo.diffusion.{module}"), name)
    return family


def model_inputs(section: ModelSection) -> dict[str, Any]:
    """Return the part of a fingerprint that identifies the model an artifact is made with."""
    weights = identify("model.checkpoint", lambda: model_identity(section))
    inputs = flatten("model", section.results()) | {"model.weights": weights}
    if (config := section.config) is not None:
        content = identify("model.config", lambda: checkpoint_identity(*split_revision(config)))
        inputs["model.config.content"] = content
    return inputs


def model_identity(section: ModelSection) -> str:
    """Return a digest of the weights that all stages start from, or `hub-id@revision`.

    The identities of `model.loras` and their weights follow it. Raises `ValueError` for a missing LoRA.
    """
    from capo.diffusion.lora_source import lora_identity

    parts = [checkpoint_identity(section.checkpoint, section.revision)]
    for position, lora in enumerate(section.loras):
        try:
            parts.append(f"{lora_identity(lora)}*{lora.weight!r}")
        except ValueError as error:
            raise ValueError(f"model.loras.{position}.path: {error}") from error
    return "+".join(parts)
