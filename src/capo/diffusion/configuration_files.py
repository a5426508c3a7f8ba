"""The small files of a checkpoint: configurations and tokenizers, without weights."""

import json
from pathlib import Path

from capo.diffusion import resolve_checkpoint
from capo.recipe import ModelSection

SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
"""Configurations and tokenizers."""


MOST_COUNTED = 10_000
"""Limit on numbers of layers and timesteps: libraries build each of them, whatever the weights are."""


def check_counts(folder: Path) -> None:
    """Raise `ValueError` if a configuration asks for more layers or timesteps than any model has."""
    for path in sorted(folder.glob("*/*config.json")):
        try:
            values = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue  # the part that needs the file reports it
        for name, value in values.items() if isinstance(values, dict) else ():
            counted = "layers" in name or "timesteps" in name
            if counted and isinstance(value, int) and value > MOST_COUNTED:
                raise ValueError(f"model.checkpoint: {path}: {name} is {value:,}, more than {MOST_COUNTED:,}")


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
