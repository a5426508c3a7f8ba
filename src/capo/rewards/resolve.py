"""Resolve a reward section of a recipe, and answer the questions every stage asks about it.

| the section has                        | its scores come from                               |
|----------------------------------------|----------------------------------------------------|
| `command`                              | a program                                          |
| `url`                                  | a server; `source` names the reward it must serve  |
| `source` (or `name`) in the catalog    | shipped weights                                    |
| `source: package.module:function`      | a function, in its own process if `requirements`   |
| `source` (or `name`) of an entry point | a function of an installed package                 |

Imports no torch, because the pipeline calls `reward_identity` to see which scores are stale.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from capo.recipe import RewardSection
from capo.recipe.hints import nearest
from capo.rewards.catalog import entry_names, find_entry
from capo.rewards.comparison import named_comparison
from capo.rewards.protocol import Reward, RewardError, RewardSource
from capo.rewards.shipped_source import ShippedSource
from capo.rewards.transports.client import ServerSource
from capo.rewards.transports.function import FunctionSource, installed_functions, installed_source, is_path
from capo.rewards.transports.program import ProgramSource
from capo.store.check import Finding
from capo.store.manifest import identify

if TYPE_CHECKING:
    from capo.method.calibration import Comparison


def load_reward(section: RewardSection, device: Any) -> Reward:
    """Load the reward of `section`, onto `device` if it runs in this process.

    Raises `RewardError` with the reason and the fix.
    """
    return _resolve(section).load(device)


def reward_identity(section: RewardSection) -> str:
    """Return everything the scores depend on apart from the samples; a change makes them stale.

    For shipped weights: the architecture, a digest of local files or the Hub id and commit, and the
    options. For a function: its import path and a digest of the module's file. For a program: its
    command with digests of the files in it. For a server: the identity of the reward it serves if it
    is known here, else the address. Reads files, loads no weights, contacts no server.
    """
    return _resolve(section).identity()


def reward_inputs(section: RewardSection) -> dict[str, Any]:
    """Return the fields of a fingerprint that say which reward the scores come from."""
    return {
        f"rewards.{section.name}.source": section.source or section.name,
        f"rewards.{section.name}.checkpoint": section.checkpoint,
        f"rewards.{section.name}.weights": identify("reward", lambda: reward_identity(section)),
    }


def pin_weights(section: RewardSection) -> bool:
    """Record the Hub commits of a reward's weights before their first use on this machine.

    The commits become part of the reward's identity, and exactly these commits are loaded. Weights that
    are pinned, local or already fetched need no network. Returns True if a commit was recorded.
    """
    source = _resolve(section)
    return isinstance(source, ShippedSource) and source.pin()


def check_reward_source(section: RewardSection) -> Iterator[Finding]:
    """Raise, or yield what is wrong, if the reward of `section` could not be loaded here.

    Loads no weights, but imports a function and starts a program.
    """
    yield from _resolve(section).check()


def declared_comparison(section: RewardSection) -> "Comparison | None":
    """Return the comparison that the reward itself declares, or None.

    Loads no weights, but starts a program and contacts a server whose reward is not known here.
    """
    return _resolve(section).comparison()


def build_comparison(section: RewardSection) -> "Comparison":
    """Return the comparison that `section` sets, else the one its reward declares. Loads no weights.

    Raises `RewardError` if neither sets one, or for a parameter that the comparison does not have.
    """
    return with_parameters(section, unchanged_comparison(section))


def unchanged_comparison(section: RewardSection) -> "Comparison | None":
    """Return the comparison that `section` names, else the one its reward declares, parameters unchanged."""
    return named_comparison(section.comparison) if section.comparison else declared_comparison(section)


def with_parameters(section: RewardSection, comparison: "Comparison | None") -> "Comparison":
    """Return the comparison with the parameters that `section` sets; errors as in `build_comparison`."""
    from capo.method.calibration import BradleyTerry, PowerRatio

    if comparison is None:
        raise RewardError(
            f"reward {section.name!r} does not declare how its scores compare: set "
            "`comparison: bradley-terry` (or power-ratio, threshold) in the recipe, or the attribute of "
            "the function, for example score.comparison = capo.BradleyTerry(temperature=1.0)"
        )
    for parameter, kind in (("temperature", BradleyTerry), ("exponent", PowerRatio)):
        value = getattr(section, parameter)
        if value is None:
            continue
        if not isinstance(comparison, kind):
            raise RewardError(
                f"reward {section.name!r}: {parameter} does not apply to its comparison {comparison}"
            )
        comparison = kind(value)
    return comparison


def unknown_reward(name: str, source: str) -> RewardError:
    """Return the error for a `source` that names no reward, with the nearest known name."""
    known = [*entry_names(), *installed_functions()]
    return RewardError(
        f"reward {name!r}: no shipped reward {source!r}{nearest(source, known)}; `capo rewards` lists "
        "them. For a function of your own, set source to package.module:function"
    )


@dataclass(frozen=True)
class _Kind:
    """A kind of reward that this machine can score itself."""

    description: str
    matches: Callable[[str], object]
    """Takes the section's `source`."""
    make: Callable[[RewardSection, str], RewardSource]
    unused_fields: tuple[str, ...]
    """Fields of a section that do not apply to this kind."""


def _shipped(section: RewardSection, source: str) -> RewardSource:
    entry = find_entry(source)
    assert entry is not None
    return ShippedSource(section, entry)


def _function(section: RewardSection, source: str) -> RewardSource:
    function = FunctionSource(section, source)
    return ProgramSource(section, function) if section.requirements else function


def _installed(section: RewardSection, source: str) -> RewardSource:
    return installed_source(section, installed_functions()[source])


_KINDS = (
    _Kind("the shipped reward", find_entry, _shipped, ("requirements",)),
    _Kind("the function", is_path, _function, ("checkpoint", "options")),
    _Kind(
        "the installed reward",
        lambda source: source in installed_functions(),
        _installed,
        ("checkpoint", "options", "requirements"),
    ),
)


def _resolve(section: RewardSection) -> RewardSource:
    if section.command:
        return ProgramSource(section)
    if section.url is None:
        return _resolve_here(section)
    # A server may offer a reward that is unknown here. A reward that the recipe names must match.
    known = section.source or find_entry(section.name)
    return ServerSource(section, _resolve_here(section) if known else None)


def _resolve_here(section: RewardSection) -> RewardSource:
    source = section.source or section.name
    for kind in _KINDS:
        if kind.matches(source):
            for field in kind.unused_fields:
                if getattr(section, field):
                    raise RewardError(
                        f"reward {section.name!r}: {field} does not apply to {kind.description} {source}; "
                        "remove it"
                    )
            return kind.make(section, source)
    raise unknown_reward(section.name, source)
