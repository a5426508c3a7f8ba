"""Checks of a recipe's rewards before a run, for the stages that use them."""

from collections.abc import Iterator
from functools import partial

from capo.recipe import RewardSection
from capo.rewards.catalog import shipped_entry
from capo.rewards.resolve import (
    build_comparison,
    check_reward_source,
    unchanged_comparison,
    with_parameters,
)
from capo.store.check import Check, Finding, finding_of
from capo.store.remembered import remember
from capo.store.step import StageName


def reward_check(section: RewardSection, stage: StageName) -> Check:
    """The check that a reward can be loaded when `stage` needs it."""
    return Check(f"rewards.{section.name}", stage, partial(check_reward_source, section), machine=True)


def comparison_check(section: RewardSection, stage: StageName) -> Check:
    """The check that two scores of a reward can be compared, which the pairs of `stage` need."""
    return Check(f"rewards.{section.name}.comparison", stage, partial(_check_comparison, section))


def _check_comparison(section: RewardSection) -> Iterator[Finding]:
    if section.url is not None and section.comparison is None:
        # Asking a server that is down would take minutes of retries.
        down = [finding for finding in check_reward_source(section) if finding.severity == "warning"]
        if down:
            message = "cannot be known while the server is down; set it, or start the server"
            yield Finding(f"rewards.{section.name}.comparison", message, "warning")
            return
    if shipped_entry(section) is not None:
        # It declares its comparison in the code of its model, which takes seconds to import.
        remember(["comparison", section.model_dump(mode="json")], lambda: str(build_comparison(section)))
        return
    try:
        comparison = unchanged_comparison(section)
    except Exception as error:  # the reward itself fails; equal to what its own check finds
        yield finding_of(error, f"rewards.{section.name}")
        return
    with_parameters(section, comparison)
