"""The cost of a study before it runs; work that runs share is counted once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from capo.cost.plan import Plan, plan_run
from capo.cost.plan.work import artifact_shares
from capo.recipe import Recipe
from capo.store.manifest import canonical
from capo.studies.study_run import StudyRun, artifact_keys

WITHOUT_COST: dict[str, Any] = {
    "name": True,
    "seed": True,
    "pairs": True,
    "start": True,
    "train": {"objective", "beta", "weighting", "weighting_bias", "time_sampling", "noise"},
}
"""Fields that do not affect the work of a run."""


@dataclass(frozen=True)
class Cost:
    """The cost of all artifacts of one kind."""

    kind: str
    different: int
    """Number of artifacts to make."""
    runs: int
    """Number of runs that need one."""
    hours: float
    """GPU hours for the artifacts to make."""
    alone: float
    """GPU hours if every run made its own."""


@dataclass(frozen=True)
class StudyCost:
    """The cost of a whole study on one GPU."""

    gpu: str
    utilization: float
    """Share of the GPU's peak speed that all work is assumed to reach."""
    kinds: list[Cost]
    notes: list[str]

    @property
    def hours(self) -> float:
        """GPU hours of all kinds."""
        return sum(kind.hours for kind in self.kinds)

    @property
    def alone(self) -> float:
        """GPU hours of all kinds without sharing."""
        return sum(kind.alone for kind in self.kinds)


def study_cost(runs: Sequence[StudyRun], gpu: str, utilization: float) -> StudyCost:
    """Return the GPU hours of `runs`, including finished ones; reads only configurations.

    Raises `ValueError` like `capo.cost.plan.plan_run`.
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
    order = [kind for shares in artifact_shares(runs[0].trained).values() for kind in shares]
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
    """Return the plan of a recipe, computed once for all recipes with the same work."""
    key = canonical(recipe.model_dump(mode="json", exclude=WITHOUT_COST))
    if key not in plans:
        plans[key] = plan_run(recipe, gpu, utilization)
    return plans[key]


def _hours(recipe: Recipe, plan: Plan) -> dict[str, float]:
    """GPU hours by kind of artifact."""
    by_kind: dict[str, float] = {}
    for stage in plan.stages:
        for kind, share in artifact_shares(recipe)[stage.name].items():
            by_kind[kind] = by_kind.get(kind, 0.0) + share * stage.hours
    return by_kind
