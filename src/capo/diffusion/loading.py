"""Loading a part of a checkpoint strictly: safetensors only, whole, and finite."""

from typing import Any

import torch

CONSTANTS = ("position_ids",)
"""Last parts of the names of constants that older checkpoints store among the weights."""


def load_part(kind: Any, path: str, folder: str, dtype: torch.dtype, **source: Any) -> Any:
    """The model of class `kind` in `folder` of a checkpoint, for inference, on the CPU.

    The weights are converted to `dtype` whatever they are stored in; `source` are the Hub revision
    and variant. Raises `ValueError` for a part without safetensors weights, with missing weights
    (the libraries would fill them with random numbers), with unknown ones, or with non-finite ones.
    """
    where = f"model.checkpoint: {path}, {folder}"
    try:
        model, found = kind.from_pretrained(
            path,
            subfolder=folder,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            **{name: value for name, value in source.items() if value is not None},
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{where} cannot be loaded as {kind.__name__}: {error}") from error
    unknown = [key for key in found["unexpected_keys"] if key.rpartition(".")[2] not in CONSTANTS]
    for what, keys in (("lacks", found["missing_keys"]), ("has unknown", unknown)):
        if keys:
            raise ValueError(f"{where} {what} weights of {kind.__name__}: {', '.join(sorted(keys)[:5])}")
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise ValueError(f"{where} has weights that are not finite: {name}")
    return model.eval()
