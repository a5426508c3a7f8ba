"""The parts of a checkpoint, loaded strictly: safetensors only, complete, and finite."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from capo.engine.progress import say
from capo.pretrained.model_loading import weight_defect


@dataclass(frozen=True)
class Source:
    """The location of a checkpoint."""

    path: str
    """The directory with the configurations and tokenizers; with the weights unless they are elsewhere."""
    hub: str | None = None
    """The Hub id that has the weights."""
    revision: str | None = None
    """The revision of the Hub id."""
    variant: str | None = None
    """The variant of the weights to load where a part has it."""
    file: str | None = None
    """A single file with the weights."""

    @property
    def name(self) -> str:
        """The name of the weights in messages."""
        return self.file or self.hub or self.path


class PartLoader(Protocol):
    """Makes one network of a checkpoint."""

    def __call__(self, kind: Any, source: Source, folder: str, dtype: torch.dtype) -> Any:
        """Return the network of class `kind` in `folder` of the checkpoint, in evaluation mode."""


def load_part(kind: Any, source: Source, folder: str, dtype: torch.dtype) -> Any:
    """Load the network of class `kind` in `folder` of a checkpoint, on the CPU, in evaluation mode.

    Converts the weights to `dtype`, whatever their stored precision. Raises `ValueError` if there are no
    safetensors weights, or if weights are missing, unknown, or not finite.
    """
    if source.file is not None:
        from capo.diffusion.single_file import load_file_part

        model = load_file_part(kind, source, folder, dtype)
        if model is not None:
            return model
    from capo.diffusion.weight_files import chosen_variant

    where = f"model.checkpoint: {source.name}, {folder}"
    chosen = {"revision": source.revision, "variant": chosen_variant(source, folder)}
    if source.variant is not None and chosen["variant"] is None:
        say(f"model.variant: {folder} has no weights of variant {source.variant!r}; using its default ones")
    try:
        model, report = kind.from_pretrained(
            source.hub or source.path,
            subfolder=folder,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            **{name: value for name, value in chosen.items() if value is not None},
        )
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # the libraries raise many types for configurations that make no sense
        raise ValueError(f"{where} cannot be loaded as {kind.__name__}: {error}") from error
    if wrong := weight_defect(model, report):
        raise ValueError(f"{where} {wrong}")
    return model.eval()
