"""Models at their real size with random weights, to measure their cost and not their output."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from capo.diffusion.components import Source


@dataclass(frozen=True)
class RandomWeights:
    """A `PartLoader` that builds parts from their configurations and reads no weight file.

    Weights are drawn on `device` in the requested precision, so nothing passes through main memory; on
    the `meta` device a model of any size takes none.
    """

    device: torch.device

    def __call__(self, kind: Any, source: Source, folder: str, dtype: torch.dtype) -> Any:
        """Return the network of class `kind` that `folder` configures, in evaluation mode."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with self.device:
                return _build(kind, source, folder).eval()
        finally:
            torch.set_default_dtype(before)


class NoValues(TorchFunctionMode):
    """Keeps tensors on `meta`, which have no data to copy to main memory.

    Answers questions about them, such as whether all tokens of a prompt count, with yes.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is Tensor.cpu and args[0].is_meta:
            return args[0]
        if function in (Tensor.__bool__, Tensor.item) and args[0].is_meta and args[0].dtype == torch.bool:
            return True
        return function(*args, **(kwargs or {}))


def _build(kind: Any, source: Source, folder: str) -> Any:
    if hasattr(kind, "from_config"):  # diffusers
        return kind.from_config(kind.load_config(source.path, subfolder=folder))
    return kind(kind.config_class.from_pretrained(source.path, subfolder=folder))
