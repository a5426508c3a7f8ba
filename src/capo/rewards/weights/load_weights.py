"""Strict loading of checkpoints: no remote code, no pickles from the Hub, all weights present and finite.

`load_model` and `load_component` load what transformers knows. For other layouts, `read_weights` reads
the tensors, the architecture renames them, and `load_into` or `load_from_weights` puts them into a
module.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo.pretrained.model_loading import quiet, weight_defect
from capo.recipe.hub_id import split_revision
from capo.rewards.protocol import RewardError
from capo.rewards.weights.location import WEB, with_commit

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "spiece.model")


def load_model(auto_class: Any, checkpoint: str, device: Any, dtype: "torch.dtype | str") -> Any:
    """Return the model at a directory or Hub id (`owner/name@revision`), frozen, on `device`.

    Raises `RewardError` if it cannot be read, or if weights are missing, unused or not finite.
    """
    model, loading_info = _from_pretrained(auto_class, checkpoint, dtype=dtype, output_loading_info=True)
    return _ready(model, loading_info, checkpoint, device)


def load_from_weights(
    model_class: Any,
    config: Any,
    weights: "Mapping[str, Tensor]",
    checkpoint: str,
    device: Any,
    dtype: "torch.dtype",
) -> Any:
    """Like `load_model`, from weights already read from `checkpoint` and named as in `model_class`."""
    try:
        with quiet():
            model, loading_info = model_class.from_pretrained(
                None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True
            )
    except RuntimeError as error:  # shapes
        raise RewardError(f"{checkpoint} does not fit {model_class.__name__}: {error}") from error
    return _ready(model, loading_info, checkpoint, device)


def default_dtype(device: Any) -> "torch.dtype | str":
    """Return the dtype for large models: float32 on a CPU, that of the checkpoint elsewhere."""
    import torch

    return torch.float32 if torch.device(device).type == "cpu" else "auto"


def load_component(auto_class: Any, checkpoint: str, **arguments: Any) -> Any:
    """Return the tokenizer, image processor or processor of a checkpoint."""
    return _from_pretrained(auto_class, checkpoint, **arguments)


def component_location(checkpoint: str, processor: str | None, default: str) -> str:
    """Return the tokenizer's location: `processor`, else the checkpoint if it has one, else `default`.

    For checkpoints whose official file has only weights.
    """
    own = any((Path(checkpoint) / name).is_file() for name in TOKENIZER_FILES)
    return processor or (checkpoint if own else default)


def read_weights(checkpoint: str) -> "dict[str, Tensor]":
    """Return the tensors of a checkpoint by name, on the CPU.

    `checkpoint` is a directory or Hub id with one or more safetensors files, or a local file:
    safetensors, or a pickle of tensors only, which torch reads without running code. Raises
    `RewardError` if there are no weights, or if two files contain the same weights.
    """
    if checkpoint.startswith(WEB):
        raise RewardError(
            "its authors released these weights only as a pickle, which can run code when it is read, so it "
            f"is not fetched: download {checkpoint}, and set `checkpoint: path/to/file` for this reward; "
            "capo then reads it as tensors only"
        )
    path = Path(checkpoint)
    if path.is_file():
        return _read_file(path)
    folder = path if path.is_dir() else _fetch(checkpoint)
    weights: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        part = _read_file(file)
        if twice := sorted(weights.keys() & part.keys()):
            raise RewardError(f"{checkpoint} has {twice[0]} in several files; keep only one of them")
        weights |= part
    if not weights:
        raise RewardError(
            f"{checkpoint} has no safetensors file. A pickle (.pt, .pth, .bin) can run code when it is read, "
            "so capo loads none from a folder or the Hub: download it, and set `checkpoint: path/to/file` "
            "to the file itself; capo then reads it as tensors only"
        )
    return weights


def load_into(module: "nn.Module", weights: "Mapping[str, Tensor]", checkpoint: str, device: Any) -> Any:
    """Load `weights` into `module`, frozen, on `device`. Raises `RewardError` unless they fit exactly."""
    try:
        missing, unexpected = module.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # shapes
        raise RewardError(f"{checkpoint} does not fit {type(module).__name__}: {error}") from error
    loading_info = {"missing_keys": missing, "unexpected_keys": unexpected}
    return _ready(module, loading_info, checkpoint, device)


def _ready(model: Any, loading_info: Mapping[str, Any], checkpoint: str, device: Any) -> Any:
    if wrong := weight_defect(model, loading_info):
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
            f"{path} contains more than tensors, and reading it could run code. A pickle must hold tensors "
            "only; save others as safetensors in the environment they come from"
        ) from error
    except (SafetensorError, OSError, RuntimeError, EOFError) as error:
        raise RewardError(f"{path} cannot be read as weights: {error}") from error
    for wrapper in ("state_dict", "model"):
        content = content.get(wrapper, content) if isinstance(content, dict) else None
    if not isinstance(content, dict) or not all(torch.is_tensor(value) for value in content.values()):
        raise RewardError(f"{path} is not a table of weights by name")
    return content


def _fetch(checkpoint: str) -> Path:
    from huggingface_hub import snapshot_download

    name, revision = split_revision(with_commit(checkpoint))
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=["*.safetensors"]))
    except Exception as error:
        # As in `_from_pretrained`, many types, all of which mean that it is not available.
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
        # transformers raises many types here, all of which mean that the checkpoint cannot be used.
        raise RewardError(
            f"{checkpoint} cannot be loaded as {auto_class.__name__}: {type(error).__name__}: {error}"
        ) from error
