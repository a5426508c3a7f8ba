"""Where the LoRAs of a base are: a file, a folder, or a repository on the Hub, which is downloaded once."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from capo.diffusion.identity import checkpoint_identity
from capo.diffusion.saved import LORA, PEFT_CONFIG, PEFT_WEIGHTS
from capo.pretrained.hub_access import HubAccessError, find_repository
from capo.recipe import LoraSection
from capo.recipe.hub_id import split_revision


def lora_identity(lora: LoraSection) -> str:
    """Return a digest of a LoRA's contents, or `hub-id@revision`, with the file's name if the recipe has it.

    Raises `ValueError` if a path does not exist.
    """
    if lora.on_hub:
        identity = checkpoint_identity(*split_revision(lora.path))
        return identity if lora.file is None else f"{identity}/{lora.file}"
    place = local_path(lora)
    if not place.exists():
        raise ValueError(f"{place} is neither a file nor a folder, nor is {lora.path!r} a Hub id")
    return checkpoint_identity(str(place), None)


def find_lora(lora: LoraSection) -> Path:
    """Return the file of a LoRA, or its folder if peft saved it; what is on the Hub is fetched if necessary.

    Raises `ValueError` if it cannot be fetched, or if it is not clear which file of a repository is meant.
    """
    if not lora.on_hub:
        return local_path(lora)
    name, revision = split_revision(lora.path)
    files = [lora.file] if lora.file else _lora_files(lora.path, _listed(name, revision))
    return _fetched(name, revision, tuple(files))


def local_path(lora: LoraSection) -> Path:
    """Return the path of a LoRA that is not on the Hub."""
    return Path(lora.path) if lora.file is None else Path(lora.path, lora.file)


def location(lora: LoraSection) -> str:
    """Return a LoRA's path, or its Hub id without the revision."""
    return split_revision(lora.path)[0] if lora.on_hub else str(local_path(lora))


def is_peft(lora: LoraSection) -> bool:
    """Report whether a LoRA is known to be a folder that peft saved."""
    return len(_known_files(lora)) > 1 if lora.on_hub else (local_path(lora) / PEFT_CONFIG).is_file()


def known_file(lora: LoraSection) -> str | None:
    """Return the name of a LoRA's file in its repository, if the recipe or the Hub's cache here says it."""
    files = _known_files(lora)
    return files[0] if len(files) == 1 else None


def _known_files(lora: LoraSection) -> list[str]:
    if lora.file is not None:
        return [lora.file]
    try:
        return _lora_files(lora.path, _cached(*split_revision(lora.path)))
    except (OSError, ValueError):
        return []


def _lora_files(where: str, files: Sequence[str]) -> list[str]:
    """Return the files of a repository that make up its LoRA: one, or two if peft saved them."""
    weights = [name for name in files if name.endswith(".safetensors") and "/" not in name]
    if PEFT_CONFIG in files and PEFT_WEIGHTS in weights:
        return [PEFT_CONFIG, PEFT_WEIGHTS]
    if LORA in weights:
        return [LORA]
    if len(weights) == 1:
        return weights
    found = f"several: {', '.join(weights)}" if weights else "none"
    raise ValueError(f"{where} must have one .safetensors file, and has {found}; name the file in `file`")


@cache
def _listed(name: str, revision: str | None) -> list[str]:
    """Return the files of a repository; without the Hub, those that were fetched before."""
    from huggingface_hub import HfApi

    try:
        return list(HfApi().list_repo_files(name, revision=revision))
    except Exception as error:
        # The library, its HTTP client and the network each have error types of their own.
        try:
            return _cached(name, revision)
        except OSError:
            raise _unreachable(name, revision, error) from error


def _cached(name: str, revision: str | None) -> list[str]:
    """Return the files of a repository in the Hub's cache; raises `OSError` if it has none."""
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


@cache
def _fetched(name: str, revision: str | None, files: tuple[str, ...]) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        paths = [Path(hf_hub_download(name, file, revision=revision)) for file in files]
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError):  # it may be there, but the Hub was not reached
            raise _unreachable(name, revision, error) from error
        raise ValueError(f"{name} has no file {files[0]!r} on the Hub") from error
    except Exception as error:
        raise _unreachable(name, revision, error) from error
    return paths[0] if len(paths) == 1 else paths[0].parent


def _unreachable(name: str, revision: str | None, error: Exception) -> ValueError:
    """Return an error with the most specific reason why a repository cannot be fetched."""
    try:
        find_repository(name, revision)
    except HubAccessError as reason:
        return ValueError(str(reason))
    return ValueError(f"{name} cannot be fetched: {type(error).__name__}: {error}")
