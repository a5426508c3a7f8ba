"""Instructions for downloading what a shipped reward lacks on this machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capo.pretrained.hub_access import HubAccessError, find_repository
from capo.recipe.hub_id import HUB_ID, split_revision
from capo.rewards.catalog import CATALOG, WEIGHT_OPTIONS, CatalogEntry
from capo.rewards.protocol import RewardError
from capo.rewards.weights.location import WEB, has_any_file, is_downloaded, with_commit

PROCESSOR_FILES = ("*.json", "*.txt", "*.model")
"""Files of a tokenizer, a configuration and an image processor."""
UNUSED_FILES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
"""Pickles and weights for other libraries, which many repositories hold in addition to safetensors."""


def download_instructions(entry: CatalogEntry, options: Mapping[str, Any] | None = None) -> str | None:
    """Return size, license and commands for what is missing here, or None if nothing is.

    `options` are the options in use, by default those of the entry. Size and license are known only
    for shipped weights.
    """
    options = entry.options if options is None else options
    steps = [*_weights_steps(entry), *_processor_steps(entry), *_option_steps(options)]
    if not steps:
        return None
    about = f" ({_size(entry)}; {entry.license})" if entry in CATALOG.values() else ""
    name = split_revision(entry.checkpoint)[0]
    return f"To download {name}{about}: {'; '.join(steps)}."


def fetch_problem(entry: CatalogEntry, options: Mapping[str, Any]) -> str | None:
    """Say why capo cannot fetch what is missing here; None if it can, or if nothing is missing.

    Asks the Hub about every repository that is missing, but fetches nothing.
    """
    if not entry.own_process and _weights_steps(entry):
        if entry.checkpoint.startswith(WEB) or entry.pickle_file:
            return "its weights are not on this machine, and capo does not fetch pickles"
        if problem := _access_problem(entry.checkpoint, weights=True):
            return problem
    if entry.processor and _processor_steps(entry) and (problem := _access_problem(entry.processor)):
        return problem
    towers = [options[name] for name in WEIGHT_OPTIONS if options.get(name)]
    problems = (_access_problem(tower, weights=True) for tower in towers if not is_downloaded(tower))
    return next((problem for problem in problems if problem), None)


def check_available(location: str) -> None:
    """Raise `RewardError` if weights are neither on this machine nor can be fetched from the Hub."""
    if not HUB_ID.fullmatch(location) or is_downloaded(location):
        return
    if problem := _access_problem(location):
        raise RewardError(f"{problem}. To download it: `{_command(location)}`")


def _access_problem(location: str, *, weights: bool = False) -> str | None:
    """Say why a repository cannot be fetched, or has none of the `weights` it is fetched for."""
    try:
        repository = find_repository(*split_revision(with_commit(location)))
    except HubAccessError as error:
        return str(error)
    if weights and not repository.has_safetensors:
        return (
            f"{location} has no safetensors file, and capo reads no pickle from the Hub: name a folder or a "
            "revision with safetensors, such as one that the Hub's converter proposed (`@refs/pr/1`)"
        )
    return None


def _weights_steps(entry: CatalogEntry) -> list[str]:
    location = entry.checkpoint
    if is_downloaded(location) or Path(location).exists():
        return []
    if entry.own_process:
        return ["its program downloads it on first use, which needs a network"]
    if location.startswith(WEB):
        return [f"`curl -LO {location}`, then set `checkpoint` to the path of the file"]
    if not HUB_ID.fullmatch(location):
        return []
    if entry.pickle_file:
        command = f"{_command(location)} {entry.pickle_file} --local-dir ."
        return [f"`{command}`, then set `checkpoint` to the path of the file"]
    return [f"`{_command(location)}{_patterns('exclude', UNUSED_FILES)}`"]


def _processor_steps(entry: CatalogEntry) -> list[str]:
    location = entry.processor
    if location is None or not HUB_ID.fullmatch(location):
        return []
    if Path(location).exists() or has_any_file(location):
        return []
    # Weights that are only a head need the weights of their tower as well.
    wanted = (*PROCESSOR_FILES, "*.safetensors") if entry.checkpoint.startswith(WEB) else PROCESSOR_FILES
    return [f"`{_command(location)}{_patterns('include', wanted)}`"]


def _option_steps(options: Mapping[str, Any]) -> list[str]:
    locations = [options[name] for name in WEIGHT_OPTIONS if options.get(name)]
    missing = [location for location in locations if HUB_ID.fullmatch(location)]
    return [
        f"`{_command(location)}{_patterns('exclude', UNUSED_FILES)}`"
        for location in missing
        if not is_downloaded(location)
    ]


def _command(location: str) -> str:
    name, revision = split_revision(with_commit(location))
    return f"hf download {name}" + (f" --revision {revision}" if revision else "")


def _patterns(option: str, patterns: tuple[str, ...]) -> str:
    return "".join(f" --{option} '{pattern}'" for pattern in patterns)


def _size(entry: CatalogEntry) -> str:
    """Return a range from half precision to float32, because the precision of the files is not known."""
    return f"{entry.parameters_millions * 2 / 1000:.1f} to {entry.parameters_millions * 4 / 1000:.1f} GB"
