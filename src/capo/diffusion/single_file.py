"""Checkpoints of one safetensors file in the layout of the model's authors, as most sites share them.

The file has weights only. The configurations, the tokenizers and the scheduler come from a diffusers
directory or a Hub id of the same architecture, of which no weights are read unless the file lacks a part:
files of FLUX often hold the transformer alone.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from capo.diffusion.components import Source
from capo.diffusion.configuration_files import SMALL_FILES
from capo.pretrained.model_loading import weight_defect
from capo.recipe import ModelSection
from capo.recipe.hub_id import split_revision

DENOISER = "model.diffusion_model."
PREFIXES = {
    "unet": (DENOISER,),
    "transformer": (DENOISER,),
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0.", "text_encoders.clip_l."),
    "text_encoder_2": ("conditioner.embedders.1.", "text_encoders.clip_g."),
}
"""The names of a part's tensors start with one of these; those of a T5, with `T5`."""
T5 = "text_encoders.t5xxl."

ARCHITECTURES = {
    "v1": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "xl_base": "stabilityai/stable-diffusion-xl-base-1.0",
    "sd3": "stabilityai/stable-diffusion-3-medium-diffusers",
    "sd35_medium": "stabilityai/stable-diffusion-3.5-medium",
    "sd35_large": "stabilityai/stable-diffusion-3.5-large",
    "flux-dev": "black-forest-labs/FLUX.1-dev",
    "flux-schnell": "black-forest-labs/FLUX.1-schnell",
}
"""diffusers' name for the architecture of a file → the Hub id whose configuration fits it."""


def is_single_file(path: str) -> bool:
    """Report whether `path` is a safetensors file rather than a directory or a Hub id."""
    return path.endswith(".safetensors") and Path(path).is_file()


def is_checkpoint_file(path: Path) -> bool:
    """Report whether `path` is a safetensors file with a whole denoiser, and not a LoRA."""
    if not is_single_file(str(path)):
        return False
    try:
        names = _header(str(path))
    except ValueError:
        return False
    starts = (DENOISER, "double_blocks.0.", "joint_blocks.0.")
    return any(name.startswith(starts) and "lora" not in name for name in names)


def locate_file(section: ModelSection, file: str) -> Source:
    """Return the location of a single-file checkpoint with its configuration.

    Raises `ValueError` for a file of an unsupported architecture without `model.config`, and if the
    configuration cannot be read.
    """
    where = configuration(section, file)
    path = where if Path(where).is_dir() else _download_configuration(where, file, given=bool(section.config))
    source = Source(path, variant=section.variant, file=file)
    _check_prediction(source)
    return source


def configuration(section: ModelSection, file: str) -> str:
    """Return the directory or Hub id with the configuration of a single file.

    Raises `ValueError` for a file of an unsupported architecture without `model.config`.
    """
    return section.config or _usual_configuration(file)


def load_file_part(kind: Any, source: Source, folder: str, dtype: torch.dtype) -> Any | None:
    """Load the network of class `kind` from the single file of `source`, in evaluation mode.

    Returns None if the file has no weights of this part. Raises `ValueError` if it lacks some of them, has
    unknown ones, or has some that are not finite.
    """
    assert source.file is not None
    tensors = _tensors(source.file, kind, folder)
    if not tensors:
        return None
    where = f"model.checkpoint: {source.file}, {folder}"
    try:
        if hasattr(kind, "from_single_file"):
            model, report = _diffusers_part(kind, source, folder, tensors)
        else:
            model, report = _text_encoder(kind, source, folder, tensors)
    except (AttributeError, IndexError, KeyError, OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{where} does not fit the {kind.__name__} that {source.path} configures: {error}; set "
            "model.config to a diffusers directory or a Hub id of the file's own architecture"
        ) from error
    if wrong := weight_defect(model, report):
        raise ValueError(f"{where} {wrong}")
    return model.to(dtype).eval()


def converted(kind: Any, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a diffusers network under its own names, by diffusers' own converter."""
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    convert = SINGLE_FILE_LOADABLE_CLASSES[kind.__name__]["checkpoint_mapping_fn"]
    weights: dict[str, Tensor] = convert(config=config, checkpoint=dict(tensors))
    return weights


def _diffusers_part(
    kind: Any, source: Source, folder: str, tensors: Mapping[str, Tensor]
) -> tuple[Any, dict[str, list[str]]]:
    from accelerate import init_empty_weights

    config = kind.load_config(source.path, subfolder=folder)
    weights = converted(kind, config, tensors)
    with init_empty_weights():
        model = kind.from_config(config)
    own = model.state_dict()
    report = model.load_state_dict(
        {name: tensor for name, tensor in weights.items() if name in own}, strict=False, assign=True
    )
    unknown = sorted(weights.keys() - own.keys())
    if kind.__name__ == "UNet2DConditionModel":  # its converter skips what it does not know
        unknown += ["some that diffusers does not convert"] * (len(tensors) > len(weights))
    return model, {"missing_keys": report.missing_keys, "unexpected_keys": unknown}


def _text_encoder(
    kind: Any, source: Source, folder: str, tensors: Mapping[str, Tensor]
) -> tuple[Any, dict[str, list[str]]]:
    from diffusers.loaders import single_file_utils as conversion

    t5 = kind.__name__.startswith("T5")
    convert: Any = (
        conversion.create_diffusers_t5_model_from_checkpoint
        if t5
        else conversion.create_diffusers_clip_model_from_ldm
    )
    model = convert(kind, checkpoint=dict(tensors), config=source.path, subfolder=folder)
    model.tie_weights()
    missing = [name for name, weight in model.named_parameters() if weight.is_meta]
    return model, {"missing_keys": missing, "unexpected_keys": []}


def has_part(file: str, kind: Any, folder: str) -> bool:
    """Report whether the file has weights of the network of class `kind`."""
    return bool(_names_of(list(_header(file)), kind, folder))


def _tensors(file: str, kind: Any, folder: str) -> dict[str, Tensor]:
    with safe_open(file, "pt") as opened:
        wanted = _names_of(list(opened.keys()), kind, folder)
        return {name: opened.get_tensor(name) for name in wanted}


def _names_of(names: list[str], kind: Any, folder: str) -> list[str]:
    """The names of the tensors that belong to a part."""
    prefixes = (T5,) if kind.__name__.startswith("T5") else PREFIXES.get(folder, ())
    if folder == "transformer" and not any(name.startswith(DENOISER) for name in names):
        return [name for name in names if not name.startswith(_other_parts())]
    return [name for name in names if name.startswith(prefixes)]


def _other_parts() -> tuple[str, ...]:
    return (T5, *(prefix for prefixes in PREFIXES.values() for prefix in prefixes))


def _usual_configuration(file: str) -> str:
    """The Hub id whose configuration fits the architecture of `file`."""
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type

    header = _header(file)
    known = any(name.startswith(DENOISER) or "double_blocks.0." in name for name in header)
    found = infer_diffusers_model_type(header) if known or "pos_embed" in header else None
    if found == "v2":
        raise ValueError(
            f"model.checkpoint: {file} is a Stable Diffusion 2 model, which may predict noise or velocity; "
            "name the model it was made from as model.config"
        )
    if found not in ARCHITECTURES:
        what = f"has the architecture {found!r}" if found else "has no weights of a denoiser"
        raise ValueError(
            f"model.checkpoint: {file} {what}; supported single files: {', '.join(ARCHITECTURES)}. For "
            "another model of a supported family, set model.config"
        )
    return ARCHITECTURES[found]


def _header(file: str) -> dict[str, Tensor]:
    """The tensors of a file by name, with shapes but without values."""
    try:
        with safe_open(file, "pt") as opened:
            shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"model.checkpoint: {file} is not a readable safetensors file: {error}") from error
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@cache
def _download_configuration(where: str, file: str, given: bool) -> str:
    from huggingface_hub import snapshot_download

    name, revision = split_revision(where)
    try:
        return snapshot_download(name, revision=revision, allow_patterns=list(SMALL_FILES))
    except (OSError, ValueError) as error:
        why = "" if given else f", the usual configuration of models like {Path(file).name},"
        raise ValueError(
            f"model.config: {where}{why} is neither a directory nor a Hub id that can be read from here: "
            f"{error}. Set it to a diffusers directory of the same architecture; its weights are not read"
        ) from error


def _check_prediction(source: Source) -> None:
    """Raise `ValueError` if the file is marked as predicting velocity and the configuration differs."""
    from diffusers import DDPMScheduler

    assert source.file is not None
    with safe_open(source.file, "pt") as opened:
        marks = {"v_pred", "ztsnr"} & set(opened.keys())
    if not marks:
        return
    config = DDPMScheduler.load_config(source.path, subfolder="scheduler")
    expected = {"v_pred": ("prediction_type", "v_prediction"), "ztsnr": ("rescale_betas_zero_snr", True)}
    for mark in sorted(marks):
        field, value = expected[mark]
        if config.get(field) != value:
            raise ValueError(
                f"model.config: {source.file} is marked {mark!r}, but the scheduler of {source.path} has "
                f"{field} {config.get(field)!r}; name a configuration with {value!r}"
            )
