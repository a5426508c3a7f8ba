"""Whole diffusers pipelines: put together from checked parts, and saved."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import ConfigMixin
from torch import nn
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from capo.diffusion.components import Source

ABSENT = [None, None]
"""The entry of `model_index.json` for a part that a checkpoint does without."""


def absent_parts(kind: Any, source: Source) -> list[str]:
    """Return the parts that the checkpoint of pipeline class `kind` does without."""
    index = kind.load_config(source.path)
    return [name for name, entry in index.items() if entry == ABSENT]


def assemble(kind: Any, source: Source, parts: Mapping[str, Any]) -> Any:
    """Return a pipeline of class `kind` with these `parts`; the checkpoint supplies the others.

    Raises `ImportError` naming a package that another part needs and that is missing, and `ValueError` if
    another part, such as a tokenizer, is malformed.
    """
    _check_packages(kind, source)
    try:
        pipeline = kind.from_pretrained(source.path, use_safetensors=True, **dict(parts))
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # the libraries raise many types
        raise ValueError(
            f"model.checkpoint: a tokenizer, the scheduler or the index of {source.path} cannot be loaded: "
            f"{type(error).__name__}: {error}"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _check_packages(kind: Any, source: Source) -> None:
    for name, entry in kind.load_config(source.path).items():
        if not isinstance(entry, list) or entry[0] != "transformers":
            continue
        # transformers puts such a class in the place of one whose packages are missing.
        if missing := getattr(getattr(transformers, entry[1], None), "_backends", None):
            raise ImportError(
                f"model.checkpoint: its {name} is a {entry[1]}, which needs {', '.join(missing)}; run: "
                f"pip install {' '.join(missing)}"
            )


def save_assembled(pipeline: Any, source: Source, folder: Path, dtype: torch.dtype) -> None:
    """Write the pipeline to `folder` in the layout of diffusers, with all weights in `dtype`.

    The tokenizers are the checkpoint's own.

    Encoding leaves its padding and truncation in a tokenizer, which would be saved with it: the files would
    then depend on the last prompts that were encoded. The path of a local checkpoint is not saved: it means
    nothing on another machine, and files that name it would differ between two copies of the checkpoint.
    """
    local = source.hub is None
    for name, part in pipeline.components.items():
        if local and isinstance(part, ConfigMixin):
            part.register_to_config(_name_or_path="")
        if isinstance(part, PreTrainedTokenizerBase | ProcessorMixin):
            setattr(pipeline, name, type(part).from_pretrained(source.path, subfolder=name))
    if local:
        pipeline.register_to_config(_name_or_path="")
    with _converted(pipeline, dtype):
        pipeline.save_pretrained(folder)


@contextmanager
def _converted(pipeline: Any, dtype: torch.dtype) -> Iterator[None]:
    """Replace the networks of another precision by copies in `dtype`, in main memory."""
    own: dict[str, Any] = {
        name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)
    }
    others = {name: part for name, part in own.items() if part.dtype != dtype}
    try:
        for name, part in others.items():
            device = part.device
            vars(pipeline)[name] = copy.deepcopy(part.to("cpu")).to(dtype)
            part.to(device)
        yield
    finally:
        vars(pipeline).update(others)
