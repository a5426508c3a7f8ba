"""Whole diffusers pipelines: put together from checked parts, extended by LoRA files, and saved."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import ConfigMixin
from transformers import PreTrainedTokenizerBase

from capo.diffusion.components import Source
from capo.diffusion.lora_file import check_applied, read_lora

ABSENT = [None, None]
"""The entry of `model_index.json` for a part that a checkpoint does without."""


def absent_parts(kind: Any, source: Source) -> list[str]:
    """Return the parts that the checkpoint of pipeline class `kind` does without."""
    index = kind.load_config(source.path, revision=source.revision)
    return [name for name, entry in index.items() if entry == ABSENT]


def assemble(kind: Any, source: Source, parts: Mapping[str, Any]) -> Any:
    """Return a pipeline of class `kind` with these `parts`; the checkpoint supplies the others."""
    pipeline = kind.from_pretrained(
        source.path, revision=source.revision, use_safetensors=True, **dict(parts)
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_assembled(pipeline: Any, source: Source, folder: Path) -> None:
    """Write the pipeline to `folder` in the layout of diffusers, with the checkpoint's own tokenizers.

    Encoding leaves its padding and truncation in a tokenizer, which would be saved with it: the files would
    then depend on the last prompts that were encoded. The path of a local checkpoint is not saved: it means
    nothing on another machine, and files that name it would differ between two copies of the checkpoint.
    """
    local = Path(source.path).exists()
    for name, part in pipeline.components.items():
        if local and isinstance(part, ConfigMixin):
            part.register_to_config(_name_or_path="")
        if isinstance(part, PreTrainedTokenizerBase):
            untouched = type(part).from_pretrained(
                source.path, subfolder=name, revision=source.revision or "main"
            )
            setattr(pipeline, name, untouched)
    if local:
        pipeline.register_to_config(_name_or_path="")
    pipeline.save_pretrained(folder)


def add_lora(pipeline: Any, denoiser: str, path: Path) -> None:
    """Load a LoRA file, or the one in a folder, into the networks of the pipeline.

    `denoiser` is the name of that part. Raises `ValueError` unless every tensor of the file is in use
    afterwards, and for a file that adapts text encoders only.
    """
    file = read_lora(path)
    network = getattr(pipeline, denoiser)
    try:
        # A dict of tensors: diffusers pops entries from it.
        converted = pipeline.lora_state_dict(dict(file.tensors), unet_config=network.config)
        converted = converted[0] if isinstance(converted, tuple) else converted
        if not any(name.startswith(f"{denoiser}.") for name in converted) and any(
            name.startswith("text_encoder") for name in converted
        ):
            raise ValueError(f"it adapts only text encoders, not the {denoiser}")
        pipeline.load_lora_weights(file.path.parent, weight_name=file.path.name, use_safetensors=True)
    except (IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{file.path} cannot be loaded into a {type(pipeline).__name__}: {error}") from error
    parts = {name: getattr(pipeline, name, None) for name in pipeline._lora_loadable_modules}
    check_applied(file, converted, {name: part for name, part in parts.items() if part is not None})
