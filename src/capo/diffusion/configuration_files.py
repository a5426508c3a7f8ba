"""The small files of a checkpoint: configurations and tokenizers, without weights."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from capo.diffusion import resolve_checkpoint
from capo.recipe import ModelSection

SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
"""Configurations and tokenizers."""


MOST_COUNTED = 10_000
"""Limit on numbers of layers and timesteps: libraries build each of them, whatever the weights are."""
LARGEST = 2**24
"""Limit on other sizes, such as those of vocabularies, which libraries allocate before they read weights."""
NO_SIZES = ("model_max_length", "theta", "base")
"""Parts of the names of numbers that may be larger: nothing is allocated for them."""


def check_sizes(folder: Path) -> None:
    """Raise `ValueError` if a configuration asks for more of something than any model has."""
    configurations = {path: _values(path) for path in sorted(folder.glob("*/*config.json"))}
    for path, values in configurations.items():
        for name, value in _integers(values):
            limit = MOST_COUNTED if "layers" in name or "timesteps" in name else LARGEST
            if value > limit and not any(part in name for part in NO_SIZES):
                raise ValueError(f"model.checkpoint: {path}: {name} is {value:,}, more than {limit:,}")
    for path, values in configurations.items():
        if path.name == "tokenizer_config.json":
            encoder = path.parent.with_name(path.parent.name.replace("tokenizer", "text_encoder"))
            _check_length(path, values, configurations.get(encoder / "config.json", {}))


def _check_length(path: Path, tokenizer: dict[str, Any], encoder: dict[str, Any]) -> None:
    """Raise `ValueError` if prompts are padded to more tokens than CLIP, which cuts none off, can read."""
    length, most = tokenizer.get("model_max_length"), encoder.get("max_position_embeddings")
    clip = str(encoder.get("model_type")).startswith("clip")
    if clip and isinstance(length, int | float) and isinstance(most, int) and length > most:
        raise ValueError(
            f"model.checkpoint: {path}: model_max_length is {length:,}, more than the {most:,} positions of "
            "the text encoder"
        )


def _values(path: Path) -> dict[str, Any]:
    """Return the values of a JSON file; none if it is malformed, which the part that needs it reports."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _integers(values: object, name: str = "") -> Iterator[tuple[str, int]]:
    """Yield the integers in JSON values, each with the nearest name."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _integers(value, str(key))
    elif isinstance(values, list):
        for value in values:
            yield from _integers(value, name)
    elif isinstance(values, int) and not isinstance(values, bool):
        yield name, values


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
