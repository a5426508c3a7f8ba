"""LoRA files: read strictly, and checked against the networks they were loaded into.

Loaders of LoRA files skip what they do not understand and warn, and leave a missing half uninitialized.
Here an adapter is whole or rejected: every tensor of the file must be understood, finite, and in use.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor

from capo.diffusion.saved import LORA, PEFT_CONFIG, PEFT_PREFIX, PEFT_WEIGHTS
from capo.pretrained.model_loading import is_finite

_HALF = re.compile(
    r"(?P<module>.+?)[._]lora(_linear_layer)?[._](?P<side>A|B|down|up)(\.default)?(\.weight)?$"
)
"""One of the two matrices of a module, in the formats of peft, diffusers, and kohya."""
_EXTRA = re.compile(r"(?P<module>.+?)(\.alpha|\.lora_B\.bias|\.lora_magnitude_vector(\.weight)?)$")
"""A further tensor of a module that has both matrices."""

_USED = {
    "r",
    "lora_alpha",
    "target_modules",
    "exclude_modules",
    "rank_pattern",
    "alpha_pattern",
    "use_dora",
    "use_rslora",
    "lora_bias",
}
"""Settings in a file's metadata that say how its weights apply."""
_DESCRIPTIVE = {
    "peft_type",
    "peft_version",
    "task_type",
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "lora_dropout",
}
"""Settings that change nothing at inference."""
_HARMLESS_STARTS = (True, False, "gaussian")
"""Initializations that leave the base weights alone; others, such as PiSSA, alter the base when they load."""


@dataclass(frozen=True)
class LoraFile:
    """The contents of a LoRA file."""

    path: Path
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    """peft's settings from the metadata, by network and field: `unet.lora_alpha`; empty if it has none."""


def read_lora(path: Path, denoiser: str | None = None) -> LoraFile:
    """Read a LoRA file, or the one in a folder; `denoiser` names the network of a folder that peft saved.

    Raises `ValueError` unless it is a safetensors file of finite tensors that form whole adapters, with
    metadata that only describes them.
    """
    if denoiser is not None and (path / PEFT_CONFIG).is_file():
        return _read_peft(path, denoiser)
    file = path / LORA if path.is_dir() else path
    tensors, metadata = _read(file)
    return LoraFile(file, tensors, _config(file, metadata))


def _read_peft(folder: Path, denoiser: str) -> LoraFile:
    """Read a folder that peft itself saved, as diffusers would have saved it."""
    path = folder / PEFT_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not a JSON object")
    adapted = str((config.get("auto_mapping") or {}).get("base_model_class", ""))
    if "Text" in adapted or "Encoder" in adapted:
        raise ValueError(f"{folder} adapts only text encoders ({adapted}), not the {denoiser}")
    file = folder / PEFT_WEIGHTS
    tensors, _ = _read(file)
    named = {f"{denoiser}.{name.removeprefix(PEFT_PREFIX)}": tensor for name, tensor in tensors.items()}
    settings = {f"{denoiser}.{name}": value for name, value in config.items()}
    _check_settings(path, settings)
    return LoraFile(file, named, settings)


def _read(file: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.offset_keys()}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file} is not a readable safetensors file: {error}") from error
    _check_keys(file, tensors)
    if wrong := [name for name, tensor in tensors.items() if not is_finite(tensor)]:
        raise ValueError(f"{file} has weights that are not finite: {_some(wrong)}")
    return tensors, metadata


def check_applied(file: LoraFile, converted: Mapping[str, Tensor], networks: Mapping[str, Any]) -> None:
    """Raise `ValueError` unless the networks have every adapter of the file, and no other.

    `converted` are the file's tensors under diffusers' names, which start with the network's;
    `networks` are the parts of a pipeline after loading, by name.
    """
    wanted = _modules(converted)
    applied = {
        f"{name}.{_plain(module)}"
        for name, network in networks.items()
        for module, layer in network.named_modules()
        if isinstance(layer, LoraLayer)
    }
    if unknown := sorted(wanted - applied):
        raise ValueError(f"{file.path} adapts modules that this model does not have: {_some(unknown)}")
    if extra := sorted(applied - wanted):
        raise ValueError(f"{file.path} has no weights for adapted modules: {_some(extra)}")
    for name, network in networks.items():
        if network.device.type == "meta":  # loaded without weights, only to check the file
            continue
        if empty := [f"{name}.{key}" for key, weight in network.named_parameters() if weight.is_meta]:
            raise ValueError(f"{file.path} lacks weights: {_some(empty)}")


def _check_keys(file: Path, tensors: Mapping[str, Tensor]) -> None:
    sides: dict[str, set[str]] = {}
    extras: dict[str, str] = {}
    unsupported = []
    for name in tensors:
        if half := _HALF.match(name):
            side = "down" if half["side"] in ("A", "down") else "up"
            sides.setdefault(half["module"], set()).add(side)
        elif extra := _EXTRA.match(name):
            extras[name] = extra["module"]
        else:
            unsupported.append(name)
    if not sides:
        raise ValueError(f"{file} has no LoRA weights: {_some(sorted(tensors)) or 'it is empty'}")
    unsupported += [name for name, module in extras.items() if module not in sides]
    if unsupported:
        raise ValueError(f"{file} has tensors that are not supported: {_some(sorted(unsupported))}")
    if lacking := sorted(module for module, have in sides.items() if len(have) < 2):
        raise ValueError(f"{file} has only one of the two LoRA matrices of: {_some(lacking)}")


def _config(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        config = json.loads(metadata.get(LORA_ADAPTER_METADATA_KEY, "{}"))
    except ValueError as error:
        raise ValueError(f"{file} has metadata that is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} has metadata that is not a JSON object")
    _check_settings(file, config)
    return config


def _check_settings(file: Path, config: Mapping[str, Any]) -> None:
    # peft imports modules and alters base weights by some of its settings, so only known ones pass.
    wrong = [key for key, value in config.items() if not _allowed(key.partition(".")[2], value)]
    if wrong:
        raise ValueError(f"{file} has metadata with settings that are not supported: {_some(sorted(wrong))}")


def _allowed(name: str, value: Any) -> bool:
    if name in _USED | _DESCRIPTIVE:
        return True
    if name == "init_lora_weights":
        return value in _HARMLESS_STARTS
    return value == _defaults().get(name)


@cache
def _defaults() -> dict[str, Any]:
    """Peft's settings of a plain LoRA, as JSON reads them."""
    config: dict[str, Any] = json.loads(json.dumps(LoraConfig().to_dict(), default=vars))
    return config


def _modules(converted: Mapping[str, Tensor]) -> set[str]:
    """The adapted modules that tensors under diffusers' names belong to."""
    return {_plain(name.partition(".lora")[0]) for name in _as_peft(converted)}


def _as_peft(converted: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors under the names of peft, from diffusers' older ones, as diffusers itself converts them."""
    if any(".lora_A" in name for name in converted):
        return converted
    text = {name: tensor for name, tensor in converted.items() if name.startswith("text_encoder")}
    named = convert_unet_state_dict_to_peft({n: t for n, t in converted.items() if n not in text})
    if text:
        named |= convert_state_dict_to_peft(convert_state_dict_to_diffusers(text))
    return named


def _plain(module: str) -> str:
    """A module's name without `text_model`, which transformers has dropped from some text encoders."""
    return ".".join(part for part in module.split(".") if part != "text_model")


def _some(names: Iterable[str]) -> str:
    """The first names of a list, and how many follow."""
    listed = list(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return ", ".join(listed[:3]) + more
