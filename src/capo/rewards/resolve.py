"""Which rewards there are, and what a recipe's reward section stands for.

Imports no torch: `reward_identity` is what the pipeline asks to know whether scores are stale.
"""

from typing import TYPE_CHECKING, Any

from capo.recipe import RewardSection
from capo.recipe.hints import nearest
from capo.rewards.catalog import SHIPPED
from capo.rewards.comparison import named_comparison
from capo.rewards.protocol import Reward, RewardError, RewardSource
from capo.rewards.shipped_source import ShippedSource
from capo.rewards.transports.client import ServerSource
from capo.rewards.transports.function import FunctionSource, installed_functions, installed_source, is_path
from capo.rewards.transports.program import ProgramSource, isolated

if TYPE_CHECKING:
    from capo.method.calibration import Comparison


def load_reward(section: RewardSection, device: Any) -> Reward:
    """Load what `section` names, onto `device` if this process scores.

    Raises `RewardError` with the reason and the fix.
    """
    return _origin(section).load(device)


def reward_identity(section: RewardSection) -> str:
    """What its scores depend on besides the samples: a change of it makes them stale.

    The architecture with a digest of a local checkpoint's files or the Hub id and revision, and its
    options; for a function its import path with a digest of the module's file; for a program its
    command with digests of the files in it; for a server that of the reward it serves, where that
    is known here, else its address. Reads files, loads no weights, asks no server.
    """
    return _origin(section).identity()


def reward_inputs(section: RewardSection) -> dict[str, Any]:
    """The part of a fingerprint that says which reward gave the scores."""
    return {
        f"rewards.{section.name}.source": section.source or section.name,
        f"rewards.{section.name}.checkpoint": section.checkpoint,
        f"rewards.{section.name}.weights": reward_identity(section),
    }


def pin_weights(section: RewardSection) -> bool:
    """Learn at which commits its weights are on the Hub, before the first use on this machine.

    From then on these commits are part of its identity, and what is loaded. Asks nobody for weights
    that are pinned, local, or fetched before; whether anything was learned.
    """
    origin = _origin(section)
    return isinstance(origin, ShippedSource) and origin.settle()


def declared_comparison(section: RewardSection) -> "Comparison | None":
    """The comparison that the reward itself declares; None when it declares none.

    Loads no weights, but asks a program or a server that is not known here.
    """
    return _origin(section).comparison()


def build_comparison(section: RewardSection) -> "Comparison":
    """The comparison `section` asks for, else the one its reward declares; loads no weights.

    Raises `RewardError` when there is none, or a parameter that the comparison does not have.
    """
    from capo.method.calibration import BradleyTerry, PowerRatio

    comparison = named_comparison(section.comparison) if section.comparison else declared_comparison(section)
    if comparison is None:
        raise RewardError(
            f"reward {section.name!r} does not say how its scores compare: give it "
            "`comparison: bradley-terry` (or power-ratio, threshold) in the recipe, or set the "
            "function's attribute, as score.comparison = capo.BradleyTerry(temperature=1.0)"
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


def _origin(section: RewardSection) -> RewardSource:
    if section.command:
        return ProgramSource(section)
    if section.url is None:
        return _origin_here(section)
    # A server may have what nobody has here; but what the recipe says it serves must be that.
    known = section.source or section.name in SHIPPED
    return ServerSource(section, _origin_here(section) if known else None)


def _origin_here(section: RewardSection) -> RewardSource:
    source = section.source or section.name
    if source in SHIPPED:
        _refuse(section, f"the shipped reward {source}", "requirements")
        return ShippedSource(section, source)
    if is_path(source):
        _refuse(section, f"the function {source}", "checkpoint", "options")
        own = FunctionSource(section, source)
        return isolated(section, own) if section.requirements else own
    installed = installed_functions()
    if source in installed:
        _refuse(section, f"the installed reward {source}", "checkpoint", "options", "requirements")
        return installed_source(section, installed[source])
    raise unknown_reward(section.name, source)


def unknown_reward(name: str, source: str) -> RewardError:
    """Why reward `name` cannot be: there is no `source`, but maybe something spelt alike."""
    return RewardError(
        f"reward {name!r}: no shipped reward {source!r}{nearest(source, [*SHIPPED, *installed_functions()])}"
        " (`capo rewards` lists them); your own goes under source as package.module:function"
    )


def _refuse(section: RewardSection, what: str, *fields: str) -> None:
    for field in fields:
        if getattr(section, field):
            raise RewardError(f"reward {section.name!r}: {field} does not apply to {what}; remove it")
