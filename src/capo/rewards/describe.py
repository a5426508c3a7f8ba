"""What one wants to know of a reward before choosing it, as plain values."""

from importlib import import_module
from pathlib import Path
from typing import Any

from capo.recipe import RewardSection
from capo.recipe.hub_id import HUB_ID, split_revision
from capo.rewards.catalog import SHIPPED
from capo.rewards.comparison import describe_comparison
from capo.rewards.resolve import declared_comparison, unknown_reward
from capo.rewards.shipped_source import architecture_options
from capo.rewards.transports.function import installed_functions
from capo.rewards.weights.download import download_instructions
from capo.rewards.weights.location import COMMIT, is_downloaded, with_commit

MEGABYTES = 4
"""Of memory for a million parameters in float32."""


def list_rewards() -> list[dict[str, Any]]:
    """All shipped rewards, then those of installed packages."""
    return [*map(_shipped_values, SHIPPED), *map(_installed_values, installed_functions())]


def describe_reward(name: str) -> dict[str, Any]:
    """One of them, with its options and their defaults, and what its module says of it.

    Raises `RewardError` for a name that there is not.
    """
    if name not in SHIPPED:
        if name not in installed_functions():
            raise unknown_reward(name, name)
        return _installed_values(name)
    entry = SHIPPED[name]
    module = import_module(f"capo.rewards.models.{entry.architecture.partition(':')[0]}")
    options = {**architecture_options(entry), **entry.options}
    about = (module.__doc__ or "").strip()
    return {
        **_shipped_values(name), "commit": _commit(entry.checkpoint), "processor": entry.processor,
        "missing": download_instructions(entry), "options": options, "about": about,
    }  # fmt: skip


def _commit(place: str) -> str | None:
    """What its Hub id stands for, and how to hold on to it; None for what is not on the Hub."""
    if Path(place).exists() or not HUB_ID.fullmatch(place):
        return None
    revision = split_revision(place)[1]
    if revision and COMMIT.fullmatch(revision):
        return f"{revision}, pinned"
    if (known := with_commit(place)) == place:
        return "not known here; that of the first use is kept from then on"
    return f"{split_revision(known)[1]}, of its first use here; `checkpoint: {known}` in a recipe pins it"


def _shipped_values(name: str) -> dict[str, Any]:
    entry = SHIPPED[name]
    return {
        "name": name,
        "measures": entry.measures,
        "scale": entry.scale,
        "comparison": describe_comparison(declared_comparison(RewardSection(name=name))),
        "license": entry.license,
        "parameters_millions": entry.parameters,
        "memory_megabytes": entry.parameters * MEGABYTES,
        "checkpoint": entry.checkpoint,
        "weights_here": is_downloaded(entry.checkpoint),
    }


def _installed_values(name: str) -> dict[str, Any]:
    entry = installed_functions()[name]
    try:
        comparison = describe_comparison(declared_comparison(RewardSection(name=name)))
        problem = None
    except Exception as error:  # whatever the package raises when it is imported
        comparison, problem = None, str(error)
    package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else None
    return {
        "name": name, "source": entry.value, "package": package, "comparison": comparison, "problem": problem,
    }  # fmt: skip
