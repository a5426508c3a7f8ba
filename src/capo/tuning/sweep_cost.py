"""The GPU hours and the disk space of a sweep before it runs."""

from dataclasses import dataclass

from capo.cost.plan import plan_run
from capo.cost.plan.work import artifact_hours
from capo.tuning.sweep import MOST_FURTHER, Sweep


@dataclass(frozen=True)
class SweepCost:
    """GPU hours and disk space of a sweep, without early stops."""

    gpu: str
    utilization: float
    """Share of the GPU's peak speed that all work is assumed to reach."""
    shared: dict[str, float]
    """GPU hours by kind of artifact, of what is made once."""
    per_value: float
    """GPU hours of one training and its validations."""
    bytes_per_value: float
    """Disk space of one training: its policy, checkpoints and validation images."""
    values: int
    most_values: int
    """The number of values if the sweep steps beyond the first ones as often as it may."""
    notes: list[str]

    @property
    def hours(self) -> float:
        """GPU hours with the first values alone."""
        return sum(self.shared.values()) + self.values * self.per_value

    @property
    def most_hours(self) -> float:
        """GPU hours with the largest number of values."""
        return self.hours + (self.most_values - self.values) * self.per_value


def sweep_cost(sweep: Sweep, gpu: str, utilization: float) -> SweepCost:
    """Return the cost of a sweep; reads only configurations.

    Raises `ValueError` like `capo.cost.plan.plan_run`, and `RecipeError` for a recipe without validation.
    """
    sweep.check_settings()
    recipe = sweep.of(sweep.recipe.train.beta)
    planned = plan_run(recipe, gpu, utilization)
    hours: dict[str, float] = {}
    for artifact, amount in artifact_hours(recipe, planned.stages, planned.gpu).items():
        kind = artifact.partition("/")[0]
        hours[kind] = hours.get(kind, 0.0) + amount
    first = len(sweep.first)
    return SweepCost(
        gpu=planned.gpu.name,
        utilization=utilization,
        shared={kind: hours[kind] for kind in ("samples", "scores", "validation") if kind in hours},
        per_value=hours["train"],
        bytes_per_value=sum(size for name, size in planned.disk.items() if name.startswith("train:")),
        values=first,
        most_values=first + (MOST_FURTHER if sweep.named is None else 0),
        notes=planned.notes,
    )
