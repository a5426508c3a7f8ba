"""Facts about rewards for `capo rewards` and `capo rewards show`, as plain values."""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from capo.recipe import RewardSection
from capo.recipe.hub_id import HUB_ID, split_revision
from capo.recipe.plugins import REWARD_CATALOG, PluginError, plugins
from capo.rewards.catalog import CatalogEntry, entry_names, find_entry
from capo.rewards.comparison import describe_comparison
from capo.rewards.resolve import declared_comparison, unknown_reward
from capo.rewards.shipped_source import architecture_options, load_architecture
from capo.rewards.transports.function import installed_functions
from capo.rewards.weights.download import download_instructions
from capo.rewards.weights.location import COMMIT, is_downloaded, with_commit

MEGABYTES_PER_MILLION = 4
"""Memory of a million parameters in float32."""


def list_rewards() -> list[dict[str, Any]]:
    """Return the facts about all catalog entries, then about the functions of installed packages."""
    return [*map(_catalog_facts, entry_names()), *map(_function_facts, installed_functions())]


def describe_reward(name: str) -> dict[str, Any]:
    """Return the facts about one reward, with its options, their defaults and its documentation.

    Raises `RewardError` for an unknown name.
    """
    entry = find_entry(name)
    if entry is None:
        if name not in installed_functions():
            raise unknown_reward(name, name)
        return _function_facts(name)
    module = sys.modules[load_architecture(entry).__module__]
    return {
        **_shipped_facts(name, entry),
        "commit": describe_commit(entry.checkpoint),
        "processor": entry.processor,
        "missing": download_instructions(entry),
        "options": {**architecture_options(entry), **entry.options},
        "about": (module.__doc__ or "").strip(),
    }


def describe_commit(location: str) -> str | None:
    """Say which commit a Hub id stands for and how to pin it; None for any other location."""
    if Path(location).exists() or not HUB_ID.fullmatch(location):
        return None
    revision = split_revision(location)[1]
    if revision and COMMIT.fullmatch(revision):
        return f"{revision} (pinned)"
    known = with_commit(location)
    if known == location:
        return "not known yet; the first use on this machine decides it"
    return f"{split_revision(known)[1]} (first use here); `checkpoint: {known}` in a recipe pins it"


def _shipped_facts(name: str, entry: CatalogEntry) -> dict[str, Any]:
    return {
        "name": name,
        "measures": entry.measures,
        "scale": entry.scale,
        "comparison": describe_comparison(declared_comparison(RewardSection(name=name))),
        "license": entry.license,
        "parameters_millions": entry.parameters_millions,
        "memory_megabytes": entry.parameters_millions * MEGABYTES_PER_MILLION,
        "checkpoint": entry.checkpoint,
        "weights_here": is_downloaded(entry.checkpoint),
    }


def _catalog_facts(name: str) -> dict[str, Any]:
    try:
        entry = find_entry(name)
    except PluginError as error:
        return _package_facts(name, plugins(REWARD_CATALOG)[name]) | {"problem": str(error)}
    assert entry is not None
    return _shipped_facts(name, entry)


def _function_facts(name: str) -> dict[str, Any]:
    facts = _package_facts(name, installed_functions()[name])
    try:
        comparison = describe_comparison(declared_comparison(RewardSection(name=name)))
    except Exception as error:  # importing the package can raise anything
        return facts | {"problem": str(error)}
    return facts | {"comparison": comparison}


def _package_facts(name: str, entry: EntryPoint) -> dict[str, Any]:
    return {
        "name": name,
        "source": entry.value,
        "package": f"{entry.dist.name} {entry.dist.version}" if entry.dist else None,
        "comparison": None,
        "problem": None,
    }
