"""The small files of a checkpoint: configurations and tokenizers, without weights."""

from pathlib import Path

from capo.diffusion import resolve_checkpoint
from capo.recipe import ModelSection

SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
"""Configurations and tokenizers."""


def configuration_folder(section: ModelSection) -> Path:
    """Return a directory with the configurations of `section.checkpoint`.

    A local directory is used in place; of a Hub id only the small files are fetched. Those of a single file
    are elsewhere (`model.config`). Raises `ValueError` if they cannot be read.
    """
    path = resolve_checkpoint(section.checkpoint)
    if Path(path).is_dir():
        return Path(path)
    if path.endswith(".safetensors") and Path(path).is_file():
        from capo.diffusion.single_file import locate_file

        return Path(locate_file(section, path).path)
    from huggingface_hub import snapshot_download

    try:
        fetched = snapshot_download(path, revision=section.revision, allow_patterns=list(SMALL_FILES))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model.checkpoint: cannot read the configuration of {path!r}: it is neither a diffusers "
            f"directory nor a Hub id that can be read from here ({error})"
        ) from error
    return Path(fetched)
