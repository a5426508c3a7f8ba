"""Print a rehearsal."""

from dataclasses import asdict
from typing import Any

from capo.cli.tables import add_row, gpu_hours, print_text, show, table
from capo.cost.gpus import GIB
from capo.cost.rehearsal.projection import PartSpeed
from capo.cost.rehearsal.rehearse import Rehearsal
from capo.cost.rehearsal.small_recipe import MOST_SAMPLES


def rehearsal_values(rehearsal: Rehearsal) -> dict[str, Any]:
    """Return a rehearsal as JSON values; the plan only with its hours by stage."""
    values = {name: value for name, value in asdict(rehearsal).items() if name != "plan"}
    values["hours"] = rehearsal.hours
    plan = rehearsal.plan
    planned = None if plan is None else {stage.name: stage.hours for stage in plan.stages}
    return values | {"planned_hours": planned}


def print_rehearsal(rehearsal: Rehearsal) -> None:
    """Print seconds and memory by part, then the projection next to the plan."""
    print_text(f"{rehearsal.recipe}: rehearsed in {rehearsal.seconds:,.0f} s on {rehearsal.device}\n")
    _print_parts(rehearsal.parts)
    print_text("\nProjected hours of the whole run, at the speed of this rehearsal")
    _print_projection(rehearsal)
    print_text(f"\nBatches had at most {MOST_SAMPLES} images. The whole run is faster where larger ones fit.")


def _print_parts(parts: list[PartSpeed]) -> None:
    right = ["loading, s", "ms per item", "peak GiB"]
    grid = table(["part", "item", *right], right=right)
    for part in parts:
        speed = "" if part.seconds_per_item is None else f"{1000 * part.seconds_per_item:,.3g}"
        memory = f"{part.peak_bytes / GIB:,.2f}"
        add_row(grid, [part.name, part.item, f"{part.loading_seconds:,.1f}", speed, memory])
    show(grid)


def _print_projection(rehearsal: Rehearsal) -> None:
    several, plan = rehearsal.devices > 1, rehearsal.plan
    one, here = "hours on one GPU" if several else "hours here", f"on {rehearsal.devices} GPUs"
    planned = {} if plan is None else {stage.name: stage.hours for stage in plan.stages}
    right = [one, *([here] if several else []), *(["plan"] if planned else [])]
    grid = table(["stage", "work", *right], right=right)
    for stage, time in zip(rehearsal.projected, rehearsal.times, strict=True):
        cells = [stage.name, stage.what, gpu_hours(stage.hours)]
        cells += [gpu_hours(time.hours)] if several else []
        add_row(grid, [*cells, *([gpu_hours(planned[stage.name])] if planned else [])])
    total = ["total", "", gpu_hours(rehearsal.hours)]
    total += [gpu_hours(sum(time.hours for time in rehearsal.times))] if several else []
    add_row(grid, [*total, *([gpu_hours(sum(planned.values()))] if planned else [])])
    show(grid)
