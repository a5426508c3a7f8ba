"""LoRAs in networks: beside the weights, as in evaluation, or merged into them, as a part of the base.

Merged weights cost nothing while sampling and training, and the frozen reference of a policy has them too.
An adapter kept beside the policy's would be a second one, which every later reader would have to load with
its weight.
"""

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import recurse_remove_peft_layers
from peft.tuners.lora import LoraLayer
from torch import Tensor

from capo.diffusion.lora_file import LoraFile, check_applied, read_lora
from capo.diffusion.lora_source import find_lora
from capo.recipe import LoraSection

DOWN = ".lora_down.weight"
"""The ending of the names that kohya's scripts give to A."""


def add_lora(pipeline: Any, denoiser: str, path: Path) -> None:
    """Load a LoRA file, or the one in a folder, into the networks of the pipeline.

    `denoiser` is the name of that part. Raises `ValueError` unless every tensor of the file is in use
    afterwards, and for a file that adapts text encoders only.
    """
    file = read_lora(path, denoiser)
    networks = {name: getattr(pipeline, name, None) for name in pipeline._lora_loadable_modules}
    present = {name: network for name, network in networks.items() if network is not None}
    try:
        tensors, alphas = converted(pipeline, denoiser, getattr(pipeline, denoiser).config, file)
        if not any(name.startswith(f"{denoiser}.") for name in tensors) and any(
            name.startswith("text_encoder") for name in tensors
        ):
            raise ValueError(f"it adapts only text encoders, not the {denoiser}")
        for name, network in present.items():
            _apply(pipeline, name, network, (tensors, alphas), file)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{file.path} cannot be loaded into a {type(pipeline).__name__}: {error}") from error
    check_applied(file, tensors, present)


def check_loadable(kind: Any, where: str) -> None:
    """Raise `ValueError`, which begins with `where`, for a pipeline that diffusers has no LoRA for."""
    if not hasattr(kind, "lora_state_dict"):
        raise ValueError(f"{where}: diffusers has no LoRA for a {kind.__name__}; use a full model")


def fuse_loras(
    kind: Any, denoiser: tuple[str, Any], part: tuple[str, Any], loras: tuple[LoraSection, ...]
) -> None:
    """Merge LoRAs into one network of a pipeline of class `kind`, in place and in their order.

    `denoiser` is the name of that part and its configuration, which names in a file are converted by; `part`
    is the network with its name. Raises `ValueError` naming the file unless all of its weights are finite,
    belong to networks of such a pipeline, and, for this network, are in use.
    """
    name, network = part
    for position, lora in enumerate(loras):
        try:
            file = read_lora(find_lora(lora), denoiser[0])
            tensors, alphas = converted(kind, *denoiser, file)
            own = {key: tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}
            if own:
                _apply(kind, name, network, (own, alphas), file)
                check_applied(file, own, {name: network})
                merge_adapter(network, lora.weight)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"model.loras.{position}: {lora.path} cannot be merged: {error}") from error


Converted = tuple[dict[str, Tensor], Mapping[str, float] | None]
"""Tensors and alphas under diffusers' names, which start with the network's."""


def converted(pipeline: Any, denoiser: str, config: Any, file: LoraFile) -> Converted:
    """Return the tensors of a file of any format under the names of diffusers.

    `pipeline` is a pipeline or its class, `denoiser` the name of that part, and `config` its configuration.
    Raises `ValueError` for modules that such a pipeline does not have.
    """
    arguments: dict[str, Any] = {"return_alphas": True, "return_lora_metadata": True}
    if denoiser == "unet":
        arguments["unet_config"] = config
    # A dict of tensors: diffusers pops entries from it.
    result = pipeline.lora_state_dict(scaled(file.tensors), **arguments)
    tensors, alphas = (result[0], result[1]) if len(result) == 3 else (result[0], None)
    known = tuple(f"{part}." for part in pipeline._lora_loadable_modules)
    if unknown := sorted(key for key in tensors if not key.startswith(known)):
        raise ValueError(f"it adapts modules that this model does not have: {unknown[0]}")
    return tensors, alphas


def scaled(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file with every alpha under kohya's names equal to the rank of its module.

    What the file says is multiplied into B. A module without an alpha has that of its rank, as in kohya's
    scripts and in ComfyUI; diffusers would take the alpha of other modules, and of text encoders only one.
    """
    result = dict(tensors)
    for name, down in tensors.items():
        if not name.endswith(DOWN):
            continue
        module, rank = name.removesuffix(DOWN), len(down)
        alpha = float(result.pop(f"{module}.alpha", rank))
        if alpha != rank and (up := f"{module}.lora_up.weight") in tensors:
            result[up] = tensors[up].float() * (alpha / rank)
        if not module.startswith("lora_te"):  # some converters of denoisers require it
            result[f"{module}.alpha"] = torch.tensor(float(rank))
    return result


def _apply(pipeline: Any, name: str, network: Any, weights: Converted, file: LoraFile) -> None:
    """Load what belongs to one network; diffusers ignores the rest."""
    tensors, alphas = weights
    if not any(key.startswith(f"{name}.") for key in tensors):
        return
    text = name.startswith("text_encoder")
    load = getattr(pipeline, f"load_lora_into_{'text_encoder' if text else name}")
    arguments: dict[str, Any] = {"metadata": file.config or None, "network_alphas": alphas or None}
    arguments["low_cpu_mem_usage"] = True  # what the file lacks then stays on the meta device
    arguments |= {"prefix": name, "text_encoder": network} if text else {name: network}
    known = signature(load).parameters
    load(dict(tensors), **{key: value for key, value in arguments.items() if key in known})


def merge_adapter(network: Any, weight: float) -> None:
    """Add the adapter of a network, if it has one, to its weights, times `weight`, and remove it."""
    layers = [module for module in network.modules() if isinstance(module, LoraLayer)]
    if not layers:
        return
    with torch.no_grad():
        for layer in layers if network.device.type != "meta" else ():
            layer.scale_layer(weight)
            layer.merge()
    recurse_remove_peft_layers(network)
    network._hf_peft_config_loaded = False
    if hasattr(network, "peft_config"):
        del network.peft_config
