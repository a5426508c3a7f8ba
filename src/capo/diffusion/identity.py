"""The identity of a checkpoint: a digest of the files that are read from it, or its Hub id and revision."""

import hashlib
import json
from functools import partial
from pathlib import Path

from capo.recipe.hub_id import HUB_ID
from capo.recipe.plugins import CHECKPOINTS, load_plugin, plugins
from capo.store.file_digests import file_digests
from capo.store.manifest import also_known_as

INDEX = "model_index.json"
POLICY_FILES = ("capo.json", "pytorch_lora_weights.safetensors")
"""What a policy has at the top of its folder."""

DOCUMENT_NAMES = ("readme", "license", "notice", "citation")
DOCUMENT_SUFFIXES = (
    ".md", ".rst", ".html", ".pdf", ".ipynb", ".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg", ".mp4",
)  # fmt: skip
"""Files about weights, which nothing reads."""


def resolve_checkpoint(name: str) -> str:
    """Return the directory or Hub id that the recipe's `name` means.

    An installed package may supply the name, as an entry point of the group `capo.checkpoints`: a
    function without arguments that returns the directory or Hub id.
    """
    if is_plugin_checkpoint(name):
        return str(load_plugin(CHECKPOINTS, name, "model.checkpoint")())
    return name


def is_plugin_checkpoint(name: str) -> bool:
    """Return whether an installed package supplies the checkpoint `name`."""
    return name in plugins(CHECKPOINTS)


def checkpoint_identity(name: str, revision: str | None) -> str:
    """Return a digest of the checkpoint's files, or `hub-id@revision`.

    A local file or directory has the same identity wherever it is. Hidden files, documents and pictures do
    not count, and of a diffusers directory only its index and the folders that it names. Raises
    `ValueError` if `name` is neither a file, nor a directory, nor a Hub id.
    """
    path = Path(resolve_checkpoint(name))
    if path.is_file():
        return f"blake2b:{file_digests([path], size=64)[0][:32]}"
    if path.is_dir():
        files = [p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path))]
        read = _read_files(path, files)
        identity = _digest(path, read)
        if len(read) < len(files):
            also_known_as(identity, partial(_digest, path, files))  # as version 0.1 computed it
        return identity
    if not HUB_ID.fullmatch(name):
        raise ValueError(f"{path.absolute()} does not exist, and {name!r} is not a Hub id such as owner/name")
    return f"{name}@{revision or 'main'}"


def _read_files(root: Path, files: list[Path]) -> list[Path]:
    """Return those of the `files` that are read when the checkpoint is loaded."""
    read = [path for path in files if not _is_document(path)]
    try:
        index = json.loads((root / INDEX).read_text(encoding="utf-8"))
        parts = {name for name, entry in index.items() if isinstance(entry, list)}
    except (OSError, ValueError, AttributeError):
        return read  # not a diffusers directory
    top = {INDEX, *POLICY_FILES}
    return [path for path in read if path.relative_to(root).parts[0] in parts | top]


def _is_document(path: Path) -> bool:
    return path.suffix.lower() in DOCUMENT_SUFFIXES or path.stem.lower() in DOCUMENT_NAMES


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _digest(root: Path, files: list[Path]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    files = sorted(files)
    for path, content in zip(files, file_digests(files, size=64), strict=True):
        digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(bytes.fromhex(content))
    return f"blake2b:{digest.hexdigest()}"
