"""Models at their real size without their weights: to know what they cost, not what they answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_device: torch.device | None = None


@contextmanager
def random_weights(device: torch.device) -> Iterator[None]:
    """Within, every part of a checkpoint is built from its configuration, with random weights.

    They are drawn on `device` and in the precision asked for, so that nothing passes through main
    memory; on the `meta` device a model of any size takes none. No weight file is read.
    """
    global _device
    before, _device = _device, device
    try:
        yield
    finally:
        _device = before


def wanted() -> bool:
    """Whether this is inside `random_weights`."""
    return _device is not None


def build_part(kind: Any, path: str, folder: str, dtype: torch.dtype, revision: str | None = None) -> Any:
    """The model of class `kind` that `folder` of a checkpoint configures, for inference."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(_device or "cpu"):
            return _construct(kind, path, folder, revision).eval()
    finally:
        torch.set_default_dtype(before)


def _construct(kind: Any, path: str, folder: str, revision: str | None) -> Any:
    if hasattr(kind, "from_config"):  # diffusers
        return kind.from_config(kind.load_config(path, subfolder=folder, revision=revision))
    config = kind.config_class.from_pretrained(path, subfolder=folder, revision=revision or "main")
    return kind(config)
