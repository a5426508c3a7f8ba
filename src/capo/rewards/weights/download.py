"""What must be downloaded before a shipped reward can run, and how: for machines that cannot themselves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capo.recipe.hub_id import HUB_ID, split_revision
from capo.rewards.catalog import PLACE_OPTIONS, SHIPPED, Shipped
from capo.rewards.weights.location import WEB, has_any_file, is_downloaded, with_commit

READ = ("*.json", "*.txt", "*.model")
"""The files of a tokenizer, a configuration and an image processor."""
UNREAD = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
"""Pickles and weights for other libraries, which lie beside safetensors in many a repository."""


def download_instructions(entry: Shipped, options: Mapping[str, Any] | None = None) -> str | None:
    """Size, licence and commands for what is not on this machine; None when all of it is.

    `options` are those it runs with, the entry's when None. Of other weights for an architecture size
    and licence are not known.
    """
    options = entry.options if options is None else options
    steps = [*_weights(entry), *_processor(entry), *_more_weights(options)]
    if not steps:
        return None
    about = f" ({_size(entry)}; {entry.license})" if entry in SHIPPED.values() else ""
    name = split_revision(entry.checkpoint)[0]
    return f"To have {name}{about} on this machine: {'; '.join(steps)}."


def _weights(entry: Shipped) -> list[str]:
    place = entry.checkpoint
    if is_downloaded(place) or Path(place).exists():
        return []
    if entry.by_itself:
        return ["its program fetches it when it is first used, which needs the network"]
    if place.startswith(WEB):
        return [f"`curl -LO {place}`, and name the file as its `checkpoint`"]
    if not HUB_ID.fullmatch(place):
        return []
    if entry.pickle:
        return [f"`{_command(place)} {entry.pickle} --local-dir .`, and name the file as its `checkpoint`"]
    return [f"`{_command(place)}{_patterns('exclude', UNREAD)}`"]


def _processor(entry: Shipped) -> list[str]:
    place = entry.processor
    if place is None or not HUB_ID.fullmatch(place) or Path(place).exists() or has_any_file(place):
        return []
    # A head alone goes with the weights of its tower.
    wanted = (*READ, "*.safetensors") if entry.checkpoint.startswith(WEB) else READ
    return [f"`{_command(place)}{_patterns('include', wanted)}`"]


def _more_weights(options: Mapping[str, Any]) -> list[str]:
    places = [options[name] for name in PLACE_OPTIONS if options.get(name)]
    missing = [place for place in places if HUB_ID.fullmatch(place) and not is_downloaded(place)]
    return [f"`{_command(place)}{_patterns('exclude', UNREAD)}`" for place in missing]


def _command(place: str) -> str:
    name, revision = split_revision(with_commit(place))
    return f"hf download {name}" + (f" --revision {revision}" if revision else "")


def _patterns(option: str, patterns: tuple[str, ...]) -> str:
    return "".join(f" --{option} '{pattern}'" for pattern in patterns)


def _size(entry: Shipped) -> str:
    """In half precision or in float32: which of them its authors chose is only known there."""
    return f"{entry.parameters * 2 / 1000:.1f} to {entry.parameters * 4 / 1000:.1f} GB"
