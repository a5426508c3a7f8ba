"""LoRA policies: their files as updates that can be merged, and merged updates as a file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.utils import convert_unet_state_dict_to_peft
from safetensors.torch import save_file
from torch import Tensor

from capo.diffusion.lora_file import LoraFile, read_lora
from capo.diffusion.lora_loading import converted
from capo.diffusion.saved import LORA
from capo.method.low_rank import LowRank

if TYPE_CHECKING:
    from capo.diffusion.family import Family

DOWN, UP = ".lora_A.weight", ".lora_B.weight"
SIDES = ((DOWN, UP), (".lora.down.weight", ".lora.up.weight"))
"""Endings of the names of A and B: peft's and the older ones of diffusers."""

NOT_PLAIN = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern")
"""Settings of peft under which an update is not alpha / r times B A."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA policy: the update of every module, and the settings in its file."""

    updates: dict[str, LowRank]
    sides: tuple[str, str]
    config: dict[str, Any]
    """peft's settings, with the network's name before the field: `unet.lora_alpha`."""

    @property
    def network(self) -> str:
        """The name of the adapted network."""
        return next(iter(self.updates)).partition(".")[0]

    @property
    def rank(self) -> int:
        """The rank of every update."""
        return int(self.config[f"{self.network}.r"])


def read_adapter(folder: Path) -> Adapter:
    """Read a LoRA policy, with alpha / r multiplied into its updates.

    Raises `ValueError` if the file is not a whole adapter, is not plain LoRA (such as DoRA), or does not
    record its alpha.
    """
    file = read_lora(folder)
    path, config, tensors = file.path, file.config, file.tensors
    down, up = next((pair for pair in SIDES if any(name.endswith(pair[0]) for name in tensors)), SIDES[0])
    modules = [name.removesuffix(down) for name in tensors if name.endswith(down)]
    network = modules[0].partition(".")[0] if modules else ""
    if not config.get(f"{network}.lora_alpha"):
        raise ValueError(f"{path} does not record its alpha, as LoRA files of capo, diffusers and PEFT do")
    _check_plain(file, network, len(tensors) == 2 * len(modules))
    scale = config[f"{network}.lora_alpha"] / config[f"{network}.r"]
    updates = {name: LowRank(tensors[name + up] * scale, tensors[name + down]) for name in modules}
    return Adapter(updates, (down, up), config)


def convert_adapter(path: Path, base: "Family", like: Adapter) -> Adapter:
    """Read a LoRA from elsewhere, in any format that diffusers reads for `base`, under the names of `like`.

    The alpha of a module is that of the file, or its rank. Raises `ValueError` if the file is not a whole
    adapter, is not plain LoRA, or also adapts text encoders.
    """
    network = base.denoiser_name
    file = read_lora(path, network)
    found, alphas = converted(base.pipeline_class, network, base.denoiser.config, file)
    tensors = found if any(DOWN in name for name in found) else convert_unet_state_dict_to_peft(found)
    modules = [name.removesuffix(DOWN) for name in tensors if name.endswith(DOWN)]
    _check_plain(file, network, len(tensors) == 2 * len(modules))
    if others := [module for module in modules if not module.startswith(f"{network}.")]:
        raise ValueError(f"{file.path} also adapts {others[0]}; a soup merges adapters of the {network} only")
    alphas = {
        name.removesuffix(".alpha").partition(".lora")[0]: alpha
        for name, alpha in convert_unet_state_dict_to_peft(dict(alphas or {})).items()
    }
    if (alpha := file.config.get(f"{network}.lora_alpha")) is not None:
        alphas = dict.fromkeys(modules, alpha)
    rank = max(len(tensors[module + DOWN]) for module in modules)
    updates = {}
    for module in modules:
        down, up = tensors[module + DOWN], tensors[module + UP]
        update = LowRank(up * (alphas.get(module, len(down)) / len(down)), down)
        updates[module] = _padded(update, rank)
    targets = [module.removeprefix(f"{network}.") for module in modules]
    fields = {"r": rank, "lora_alpha": rank, "target_modules": targets}
    own = {f"{network}.{name}": value for name, value in fields.items()}
    return Adapter(updates, like.sides, like.config | own)


def _check_plain(file: LoraFile, network: str, pairs: bool) -> None:
    """Raise `ValueError` unless the tensors are `pairs` whose products, times one number, are the updates."""
    unusual = [name for name in NOT_PLAIN if file.config.get(f"{network}.{name}")]
    if unusual or not pairs:
        raise ValueError(
            f"{file.path} is not plain LoRA ({', '.join(unusual) or 'unknown tensors'}), so its updates "
            "cannot be added up; train with lora_dora: false or adaptation: full to make soups"
        )


def _padded(update: LowRank, rank: int) -> LowRank:
    """Return the same update with further rows and columns of zeros, up to `rank`."""
    more = _zero(update, rank - update.rank)
    return LowRank(torch.cat([update.up, more.up], dim=1), torch.cat([update.down, more.down]))


def aligned(adapters: Sequence[Adapter]) -> list[dict[str, LowRank]]:
    """Return the updates of all adapters over the union of their modules, with zeros where one has none."""
    like = {name: update for adapter in adapters for name, update in adapter.updates.items()}
    return [
        {name: adapter.updates.get(name) or _zero(like[name], adapter.rank) for name in like}
        for adapter in adapters
    ]


def write_adapter(folder: Path, updates: dict[str, LowRank], adapters: Sequence[Adapter]) -> None:
    """Write updates of one rank, merged from `adapters`, as a LoRA file whose alpha is its rank."""
    first = adapters[0]
    down, up = first.sides
    tensors: dict[str, Tensor] = {}
    for name, update in updates.items():
        tensors |= {name + down: update.down.contiguous(), name + up: update.up.contiguous()}
    field, rank = f"{first.network}.target_modules", next(iter(updates.values())).rank
    targets = sorted({target for adapter in adapters for target in adapter.config[field]})
    config = {**first.config, field: targets}
    config |= {f"{first.network}.{name}": rank for name in ("r", "lora_alpha")}
    metadata = {"format": "pt", LORA_ADAPTER_METADATA_KEY: json.dumps(config, indent=2, sort_keys=True)}
    save_file(tensors, folder / LORA, metadata=metadata)


def _zero(like: LowRank, rank: int) -> LowRank:
    up, down = like.up, like.down
    return LowRank(
        torch.zeros(up.shape[0], rank, *up.shape[2:], dtype=up.dtype),
        torch.zeros(rank, *down.shape[1:], dtype=down.dtype),
    )
