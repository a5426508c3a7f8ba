"""Full policies: pipeline directories whose denoisers are merged from file to file.

Tensors are read one at a time and written at once, so neither a model nor a soup is ever in memory as a
whole.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from capo.diffusion import load_family, resolve_checkpoint
from capo.diffusion.saved import RECORD
from capo.diffusion.single_file import is_single_file
from capo.engine.progress import progress
from capo.method import soup_tensors
from capo.recipe import ModelSection

DENOISERS = ("unet", "transformer")
STEM = "diffusion_pytorch_model"


class StoredWeights(Mapping[str, Tensor]):
    """The tensors of safetensors files by name, in the order of the files; each is read on access."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = [safe_open(file, "pt") for file in files]
        self._place = {name: file for file in self._files for name in file.offset_keys()}

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._place[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)


class BaseWeights(Mapping[str, Tensor]):
    """The weights that full fine-tuning started from, in the order and dtypes of a policy's.

    Training loads the base in the model's dtype and widens it; without the same rounding here, the difference
    to the policy would be mostly rounding error.
    """

    def __init__(self, stored: Mapping[str, Tensor], loaded_as: torch.dtype, policy: StoredWeights) -> None:
        """Raise `ValueError` unless the names are the policy's."""
        if unlike := sorted(set(stored) ^ set(policy)):
            whose = "policy" if unlike[0] in policy else "base"
            raise ValueError(f"only the {whose} has a tensor {unlike[0]!r} ({len(unlike)} differ)")
        self._stored, self._loaded_as, self._policy = stored, loaded_as, policy

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._stored[name]
        if not tensor.is_floating_point():
            return tensor
        return tensor.to(self._loaded_as).to(self._policy[name].dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._policy)

    def __len__(self) -> int:
        return len(self._policy)


def merge_pipelines(
    policies: Sequence[Path], model: ModelSection, target: Path, settings: Mapping[str, Any]
) -> None:
    """Fill the folder `target` with a pipeline like the first policy's, with a soup of all as its denoiser.

    `model` is the base of all policies; `settings` are those of `soup_tensors`. Raises `ValueError` naming
    a tensor that cannot be merged.
    """
    part = _denoiser(policies[0])
    stored = [StoredWeights(weight_files(policy / part)) for policy in policies]
    base = BaseWeights(_base_weights(model, part), getattr(torch, model.dtype), stored[0])
    files = weight_files(policies[0] / part)
    _copy_the_rest(policies[0], target, files)
    merged = soup_tensors(base, stored, **settings)
    with progress("soup", len(base), "tensors") as bar:
        for file in files:
            for _ in _fill(target / part / file.name, file, merged):
                bar.advance()


def _base_weights(model: ModelSection, part: str) -> Mapping[str, Tensor]:
    """The base's denoiser: read from its files, or as a whole if these have other names or lack its LoRAs."""
    if model.loras or is_single_file(resolve_checkpoint(model.checkpoint)):
        weights: dict[str, Tensor] = load_family(model, torch.device("cpu")).denoiser.state_dict()
        return weights
    return StoredWeights(weight_files(base_folder(model) / part, model.variant))


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """Return the safetensors files of a model that diffusers saved; raises `ValueError` if there are none."""
    suffix = f".{variant}" if variant else ""
    whole = folder / f"{STEM}{suffix}.safetensors"
    if whole.is_file():
        return [whole]
    index = folder / f"{STEM}.safetensors.index{suffix}.json"
    if not index.is_file():
        raise ValueError(f"{folder} has neither {whole.name} nor {index.name}")
    return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]


def _denoiser(folder: Path) -> str:
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    return next(part for part in DENOISERS if part in index)


def base_folder(model: ModelSection) -> Path:
    """Return the directory of the base model, downloaded if it is on the Hub."""
    path = resolve_checkpoint(model.checkpoint)
    if Path(path).is_dir():
        return Path(path)
    from diffusers import DiffusionPipeline

    return Path(
        DiffusionPipeline.download(path, revision=model.revision, variant=model.variant, use_safetensors=True)
    )


def _copy_the_rest(source: Path, target: Path, weights: Sequence[Path]) -> None:
    """Copy a policy without the weights to be merged, its record, and its model card."""
    left_out = {*weights, source / RECORD, source / "README.md"}

    def ignored(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(folder, name) in left_out]

    shutil.copytree(source, target, ignore=ignored, dirs_exist_ok=True)


def _fill(target: Path, like: Path, tensors: Iterator[tuple[str, Tensor]]) -> Iterator[str]:
    """Write a file in the layout of `like` with the next of the `tensors`, which have its order."""
    with like.open("rb") as file:
        size = file.read(8)
        header = file.read(int.from_bytes(size, "little"))
    with target.open("wb") as file, safe_open(like, "pt") as layout:
        file.write(size + header)
        for expected in layout.offset_keys():
            name, tensor = next(tensors)
            assert name == expected, f"expected tensor {expected} next, as in {like}, got {name}"
            file.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
            yield name
