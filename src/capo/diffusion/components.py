"""Loading a part of a checkpoint strictly: safetensors only, whole, and finite."""

from typing import Any

import torch

from capo.diffusion import random_weights
from capo.engine.loaded_weights import defect


def load_part(kind: Any, path: str, folder: str, dtype: torch.dtype, **source: Any) -> Any:
    """The model of class `kind` in `folder` of a checkpoint, for inference, on the CPU.

    The weights are converted to `dtype` whatever they are stored in; `source` are the Hub revision
    and variant. Raises `ValueError` for a part without safetensors weights, with missing or
    unknown ones, or with some that are not finite.
    """
    if random_weights.wanted():
        return random_weights.build_part(kind, path, folder, dtype, source.get("revision"))
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
    if wrong := defect(model, found):
        raise ValueError(f"{where} {wrong}")
    return model.eval()
