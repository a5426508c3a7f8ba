"""Loading checkpoints strictly: no remote code, no pickles from afar, whole and finite.

`load_model` and `load_component` are for what transformers knows. A file in a layout of its own is read
by `read_weights`, renamed by its architecture, and put into a module by `fill`.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo.engine.model_loading import quiet, weight_defect
from capo.recipe.hub_id import split_revision
from capo.rewards.protocol import RewardError
from capo.rewards.weights.location import WEB, with_commit

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "spiece.model")


def load_model(auto_class: Any, checkpoint: str, device: Any, dtype: "torch.dtype | str") -> Any:
    """The model of a directory or Hub id (`owner/name@revision`), frozen, on `device`.

    Raises `RewardError` when it cannot be read, when weights are missing or left over, or when
    some are not finite.
    """
    model, found = _from_pretrained(auto_class, checkpoint, dtype=dtype, output_loading_info=True)
    return _ready(model, found, checkpoint, device)


def load_from_weights(
    model_class: Any,
    config: Any,
    weights: "Mapping[str, Tensor]",
    checkpoint: str,
    device: Any,
    dtype: "torch.dtype",
) -> Any:
    """As `load_model`, of weights of `checkpoint` that are read already and have `model_class`'s names."""
    try:
        with quiet():
            model, found = model_class.from_pretrained(
                None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True
            )
    except RuntimeError as error:  # shapes
        raise RewardError(f"{checkpoint} does not fit {model_class.__name__}: {error}") from error
    return _ready(model, found, checkpoint, device)


def default_dtype(device: Any) -> "torch.dtype | str":
    """For models too large for float32 on a GPU: that on a CPU, the checkpoint's own precision elsewhere."""
    import torch

    return torch.float32 if torch.device(device).type == "cpu" else "auto"


def load_component(auto_class: Any, checkpoint: str, **arguments: Any) -> Any:
    """A tokenizer, image processor or processor of a checkpoint."""
    return _from_pretrained(auto_class, checkpoint, **arguments)


def component_location(checkpoint: str, processor: str | None, usual: str) -> str:
    """Where a tokenizer is: with `processor`, else in the checkpoint's folder if there, else in `usual`.

    For checkpoints whose official file holds weights only.
    """
    own = any((Path(checkpoint) / name).is_file() for name in TOKENIZER_FILES)
    return processor or (checkpoint if own else usual)


def read_weights(checkpoint: str) -> "dict[str, Tensor]":
    """The tensors of a checkpoint by name, on the CPU.

    `checkpoint` is a directory or Hub id with a safetensors file, whole or in parts, or a local
    file: safetensors, or a pickle that holds tensors only, which torch reads without running any
    code of its. Raises `RewardError` when there is none, or two that hold the same weights.
    """
    if checkpoint.startswith(WEB):
        raise RewardError(
            "its authors released these weights as a pickle only, which can run code when it is read, so it "
            f"is not fetched: download {checkpoint}, and name the file as `checkpoint: path/to/file` of "
            "this reward; it is then read as tensors only"
        )
    place = Path(checkpoint)
    if place.is_file():
        return _read_file(place)
    folder = place if place.is_dir() else _fetch(checkpoint)
    weights: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        part = _read_file(path)
        if twice := sorted(weights.keys() & part.keys()):
            raise RewardError(f"{checkpoint} holds {twice[0]} in several files; keep one of them in a folder")
        weights |= part
    if not weights:
        raise RewardError(
            f"{checkpoint} has no safetensors file. A pickle (.pt, .pth, .bin) can run code when it is read, "
            "so none is loaded from a folder or the Hub: download it, and name the file itself as "
            "`checkpoint: path/to/file`; it is then read as tensors only"
        )
    return weights


def load_into(module: "nn.Module", weights: "Mapping[str, Tensor]", checkpoint: str, device: Any) -> Any:
    """`module` with `weights`, frozen, on `device`; raises `RewardError` unless they fit exactly."""
    try:
        missing, unexpected = module.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # shapes
        raise RewardError(f"{checkpoint} does not fit {type(module).__name__}: {error}") from error
    found = {"missing_keys": missing, "unexpected_keys": unexpected}
    return _ready(module, found, checkpoint, device)


def _ready(model: Any, found: Mapping[str, Any], checkpoint: str, device: Any) -> Any:
    if wrong := weight_defect(model, found):
        raise RewardError(f"{checkpoint} {wrong}")
    return model.eval().requires_grad_(False).to(device)


def _read_file(path: Path) -> "dict[str, Tensor]":
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RewardError(
            f"{path} holds more than tensors, and reading it could run code of its. A pickle must hold "
            "tensors only; save others as safetensors in the environment they come from"
        ) from error
    except (SafetensorError, OSError, RuntimeError, EOFError) as error:
        raise RewardError(f"{path} cannot be read as weights: {error}") from error
    for wrapper in ("state_dict", "model"):
        content = content.get(wrapper, content) if isinstance(content, dict) else None
    if not isinstance(content, dict) or not all(torch.is_tensor(value) for value in content.values()):
        raise RewardError(f"{path} holds no weights by name")
    return content


def _fetch(checkpoint: str) -> Path:
    from huggingface_hub import snapshot_download

    name, revision = split_revision(with_commit(checkpoint))
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=["*.safetensors"]))
    except Exception as error:
        # As in `_from_pretrained`: of many kinds, and all mean that it is not to be had.
        raise RewardError(
            f"{checkpoint} cannot be fetched from the Hub: {type(error).__name__}: {error}"
        ) from error


def _from_pretrained(auto_class: Any, checkpoint: str, **arguments: Any) -> Any:
    name, revision = split_revision(with_commit(checkpoint))
    if "dtype" in arguments:
        arguments["use_safetensors"] = True
    try:
        with quiet():
            return auto_class.from_pretrained(
                name, revision=revision or "main", trust_remote_code=False, **arguments
            )
    except ImportError:
        raise
    except Exception as error:
        # transformers raises many kinds here; all mean that this checkpoint is not usable.
        raise RewardError(
            f"{checkpoint} cannot be loaded as {auto_class.__name__}: {type(error).__name__}: {error}"
        ) from error
