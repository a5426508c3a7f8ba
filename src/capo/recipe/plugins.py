"""Objects that installed packages supply under names that a recipe may use.

A package declares them as entry points:

    [project.entry-points."capo.judges"]
    my-judge = "my_package.module:MyJudge"

The package that uses a group defines what its objects must offer: `diffusion`, `prompts.plugin_sources`,
`pairing.simulated_people`, `rewards.catalog` and `scoring.judging`. The embedded world is declared the same
way.
"""

import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from capo.recipe.hints import nearest

CHECKPOINTS = "capo.checkpoints"
PROMPT_SOURCES = "capo.prompts"
PEOPLE = "capo.people"
JUDGES = "capo.judges"
REWARDS = "capo.rewards"
REWARD_CATALOG = "capo.reward_catalog"
BENCHMARKS = "capo.benchmarks"


class PluginError(ValueError):
    """A name that no installed package supplies, or whose package cannot be imported."""


def plugins(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group by name.

    Raises `PluginError` if two packages supply the same name.
    """
    return _plugins(group, tuple(sys.path))


def load_plugin(group: str, name: str, field: str) -> Any:
    """Import the object called `name`, which the recipe's `field` asks for.

    Raises `PluginError` if the name is unknown or its package cannot be imported.
    """
    known = plugins(group)
    if name not in known:
        listed = f"available: {', '.join(sorted(known))}" if known else "no installed package supplies any"
        raise PluginError(f"{field}: no {name!r} in {group}; {listed}{nearest(name, known)}")
    try:
        return known[name].load()
    except (ImportError, AttributeError) as error:
        raise PluginError(f"{field}: cannot import {name!r} ({known[name].value}): {error}") from error


def plugin_version(group: str, name: str) -> str | None:
    """`package==version` of the package that supplies `name`, for fingerprints.

    None for an unknown name and for what comes with capo itself.
    """
    entry = plugins(group).get(name)
    if entry is None or entry.dist is None or entry.module.partition(".")[0] == __package__.partition(".")[0]:
        return None
    return f"{entry.dist.name}=={entry.dist.version}"


@cache  # Reading the metadata of all installed packages takes tens of milliseconds.
def _plugins(group: str, path: tuple[str, ...]) -> dict[str, EntryPoint]:
    known: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        if entry.name in known:
            both = " and ".join(str(e.dist and e.dist.name) for e in (known[entry.name], entry))
            raise PluginError(f"{group}: both {both} supply {entry.name!r}; uninstall one of them")
        known[entry.name] = entry
    return known
