"""Relative paths in a recipe, resolved once, so that a run does not depend on the current directory.

A path is relative to the folder of the recipe's file; where nothing is there, and for a shipped recipe, for
`--set` and for a recipe in Python, to the current directory. What does not exist stays as it is written: it
may be a Hub id, and if not, the stage that needs it says so. But `models/mv1` is a missing path if there is a
folder `models`; with `model.revision`, it is a Hub id.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from capo.recipe.hub_id import HUB_ID
from capo.recipe.plugins import CHECKPOINTS, PROMPT_SOURCES, plugins

PROMPT_LOCATIONS = ("prompts.source", "train.validation_prompts.source", "evaluate.prompts.source")
"""Fields in which `images` means the section of the recipe, not a folder of that name."""

LOCATIONS = (
    *PROMPT_LOCATIONS,
    "model.checkpoint",
    "model.config",
    "images.source",
    "start.run",
    "evaluate.policy",
    "evaluate.against",
    "evaluate.embedder",
)
"""Fields whose value may be a path, or a path after a prefix as in `parti:PATH`."""

BENCHMARK_LOCATIONS = ("prompts", "model", "against")
"""Such fields of a benchmark. All of its options may be paths, too."""

ELSEWHERE = ("hub:", "package:", "https:", "http:")
"""Prefixes of locations that are no paths."""


def resolve_paths(values: Any, folders: Sequence[Path]) -> None:
    """Make existing relative paths of a recipe's plain `values` absolute, by the first folder that has them.

    Values of a wrong type are left alone; validation reports them.
    """
    if not isinstance(values, dict):
        return
    for field in LOCATIONS:
        *parents, last = field.split(".")
        section: Any = values
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        if not isinstance(section, dict) or not isinstance(section.get(last), str):
            continue
        if field not in PROMPT_LOCATIONS or section[last] != "images":
            section[last] = _resolved(section[last], folders)
    model = values.get("model")
    if isinstance(model, dict) and isinstance(model.get("checkpoint"), str) and not model.get("revision"):
        model["checkpoint"] = _beside(model["checkpoint"], folders)
    loras = model.get("loras") if isinstance(model, dict) else None
    for lora in loras if isinstance(loras, list) else []:
        if isinstance(lora, dict) and isinstance(lora.get("path"), str):
            lora["path"] = _beside(_resolved(lora["path"], folders), folders)
    benchmarks = values.get("benchmarks")
    for section in benchmarks if isinstance(benchmarks, list) else []:
        if isinstance(section, dict):
            _resolve_benchmark(section, folders)
    rewards = values.get("rewards")
    for reward in rewards if isinstance(rewards, list) else []:
        if isinstance(reward, dict):
            _resolve_reward(reward, folders)


def _resolve_benchmark(section: dict[str, Any], folders: Sequence[Path]) -> None:
    options = section.get("options")
    places = [(section, field) for field in BENCHMARK_LOCATIONS]
    places += [(options, name) for name in options] if isinstance(options, dict) else []
    for values, field in places:
        if isinstance(values.get(field), str):
            values[field] = _resolved(values[field], folders)


def _resolve_reward(reward: dict[str, Any], folders: Sequence[Path]) -> None:
    if isinstance(reward.get("checkpoint"), str):
        reward["checkpoint"] = _resolved(reward["checkpoint"], folders)
    command = reward.get("command")
    if isinstance(command, list) and all(isinstance(argument, str) for argument in command):
        reward["command"] = [_resolved_argument(n, argument, folders) for n, argument in enumerate(command)]


def _resolved_argument(number: int, argument: str, folders: Sequence[Path]) -> str:
    """Resolve an argument that names a file. A program without a slash is looked up on the PATH."""
    if number == 0 and "/" not in argument:
        return argument
    found = _find(argument, folders)
    return found if found and Path(found).is_file() else argument


def _resolved(location: str, folders: Sequence[Path]) -> str:
    prefix, colon, path = location.partition(":")
    if location in plugins(CHECKPOINTS) or location.startswith(ELSEWHERE):
        return location
    if colon and prefix in plugins(PROMPT_SOURCES):
        return location
    if found := _find(location, folders):
        return found
    if colon and (found := _find(path, folders)):
        return f"{prefix}:{found}"
    return location


def _beside(location: str, folders: Sequence[Path]) -> str:
    """Make an absolute path of what reads like a Hub id, but whose first part is a folder here."""
    if HUB_ID.fullmatch(location) and not Path(location).exists():
        for folder in folders:
            if Path(folder, location).parent.is_dir():
                return str(Path(folder, location).absolute())
    return location


def _find(location: str, folders: Sequence[Path]) -> str | None:
    """Return the absolute path of an existing file or folder, links unresolved, or None."""
    if not location or "\0" in location or "\n" in location or Path(location).is_absolute():
        return None
    for folder in folders:
        path = Path(folder, location).absolute()
        try:
            if path.exists():
                return str(_without_dots(path))
        except OSError:  # too long for a path
            return None
    return None


def _without_dots(path: Path) -> Path:
    """Remove `..` from an absolute path where that does not change its meaning, which a link would."""
    plain = Path(os.path.normpath(path))
    return plain if plain.exists() and plain.samefile(path) else path
