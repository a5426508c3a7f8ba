"""What a study will cost before it runs: what its runs have in common is counted once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from capo.cost.plan import Plan, plan_run
from capo.cost.plan.work import artifact_shares
from capo.recipe import Recipe
from capo.store.manifest import canonical
from capo.studies.runs import StudyRun, artifact_keys

NOT_COUNTED: dict[str, Any] = {
    "name": True,
    "seed": True,
    "pairs": True,
    "start": True,
    "train": {"objective", "beta", "weighting", "weighting_bias", "time_sampling", "noise"},
}
"""Fields that the work of a run does not depend on."""


@dataclass(frozen=True)
class Cost:
    """Of all artifacts of one kind."""

    kind: str
    different: int
    """that have to be made"""
    runs: int
    """that have one"""
    hours: float
    """of one GPU, for those that have to be made"""
    alone: float
    """had each run made its own"""


@dataclass(frozen=True)
class StudyCost:
    """Of a whole study on one GPU."""

    gpu: str
    utilization: float
    """Share of the GPU's peak that all work is assumed to reach."""
    kinds: list[Cost]
    notes: list[str]


def study_cost(runs: Sequence[StudyRun], gpu: str, utilization: float) -> StudyCost:
    """The GPU hours of `runs`, those that are done already among them; reads configurations only.

    Raises `ValueError` as `capo.cost.plan.plan_run` does.
    """
    plans: dict[str, Plan] = {}
    made: dict[str, dict[str, float]] = {}
    uses: dict[str, list[float]] = {}
    for run in runs:
        plan = _plan(run.trained, plans, gpu, utilization)
        hours = _hours(run.trained, plan)
        keys: dict[str, list[str]] = {}
        for artifact, key in artifact_keys(run).items():
            keys.setdefault(artifact.partition("/")[0], []).append(key)
        for kind in hours.keys() & keys.keys():
            made.setdefault(kind, {})["".join(keys[kind])] = hours[kind]
            uses.setdefault(kind, []).append(hours[kind])
    order = [kind for each in artifact_shares(runs[0].trained).values() for kind in each]
    return StudyCost(
        gpu=next(iter(plans.values())).gpu.name,
        utilization=utilization,
        kinds=[
            Cost(kind, len(made[kind]), len(uses[kind]), sum(made[kind].values()), sum(uses[kind]))
            for kind in dict.fromkeys(order)
            if kind in made
        ],
        notes=list(dict.fromkeys(note for plan in plans.values() for note in plan.notes)),
    )


def _plan(recipe: Recipe, plans: dict[str, Plan], gpu: str, utilization: float) -> Plan:
    """The plan of a recipe, counted once for all that take the same work."""
    key = canonical(recipe.model_dump(mode="json", exclude=NOT_COUNTED))
    if key not in plans:
        plans[key] = plan_run(recipe, gpu, utilization)
    return plans[key]


def _hours(recipe: Recipe, plan: Plan) -> dict[str, float]:
    """GPU hours by kind of artifact."""
    found: dict[str, float] = {}
    for stage in plan.stages:
        for kind, share in artifact_shares(recipe)[stage.name].items():
            found[kind] = found.get(kind, 0.0) + share * stage.hours
    return found
