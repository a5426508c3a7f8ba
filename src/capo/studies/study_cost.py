"""The cost of a study before it runs; work that runs share is counted once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from capo.cost.plan import Plan, plan_run
from capo.cost.plan.work import artifact_hours
from capo.recipe import Recipe
from capo.store.manifest import canonical
from capo.studies.study_run import StudyRun, artifact_uses

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
    uses: int
    """Number of artifacts if every run made its own."""
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
    hours: dict[str, dict[str, float]] = {}
    for run in runs:
        plan = _plan(run.trained, plans, gpu, utilization)
        hours[run.name] = artifact_hours(run.trained, plan.stages, plan.gpu)
    return StudyCost(
        gpu=next(iter(plans.values())).gpu.name,
        utilization=utilization,
        kinds=[
            Cost(
                kind,
                different=len({use.key for use in costly}),
                uses=len(costly),
                hours=sum({use.key: hours[use.run.name][use.artifact] for use in costly}.values()),
                alone=sum(hours[use.run.name][use.artifact] for use in costly),
            )
            for kind, uses in artifact_uses(runs).items()
            if (costly := [use for use in uses if use.artifact in hours[use.run.name]])
        ],
        notes=list(dict.fromkeys(note for plan in plans.values() for note in plan.notes)),
    )


def _plan(recipe: Recipe, plans: dict[str, Plan], gpu: str, utilization: float) -> Plan:
    """Return the plan of a recipe, computed once for all recipes with the same work."""
    key = canonical(recipe.model_dump(mode="json", exclude=WITHOUT_COST))
    if key not in plans:
        plans[key] = plan_run(recipe, gpu, utilization)
    return plans[key]
