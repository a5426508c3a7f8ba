"""Print a plan."""

import math
from collections.abc import Mapping

from capo.cli.tables import add_row, gpu_hours, percent, print_text, show, table
from capo.cost.gpus import GIB
from capo.cost.plan import Plan
from capo.images.disk_space import format_bytes


def print_plan(plan: Plan) -> None:
    """Print work, memory and disk, then the remarks."""
    denoiser, trained = plan.sampling.parameters[plan.sampling.denoiser], plan.training.trained
    print_text(
        f"{plan.recipe}: {denoiser / 1e6:,.1f}M parameters in the denoiser, {trained / 1e6:,.1f}M trained"
    )
    for work, flops in _unit_costs(plan).items():
        print_text(f"  {work}: {_flops(flops)}")
    print_text(
        f"\nGPU hours on one {plan.gpu.name}, assuming {percent(plan.utilization, 0)} of its peak speed"
    )
    _print_hours(plan)
    if plan.gpus > 1 or plan.cost is not None:
        _print_wall_clock(plan)
    for stage, parts in plan.memory.items():
        print_text(f"\nGPU memory for `capo {stage}` (estimate)")
        _print_amounts(
            "part", "GiB", {name: f"{size / GIB:,.2f}" for name, size in _with_total(parts).items()}
        )
    print_text("\nDisk (estimate)")
    _print_amounts("artifact", "size", {n: format_bytes(size) for n, size in _with_total(plan.disk).items()})
    if plan.notes:
        print_text("")
    for note in plan.notes:
        print_text(f"Note: {note}")


def _unit_costs(plan: Plan) -> dict[str, int]:
    sampling, training = plan.sampling, plan.training
    return {
        "one sampling step of an image": sampling.step,
        f"sampling an image in {sampling.steps} steps": sampling.image,
        "decoding an image": sampling.decode,
        "encoding a prompt": sampling.encode,
        "training on a pair, reference and policy": training.reference.flops + training.policy.flops,
    }


def _print_hours(plan: Plan) -> None:
    grid = table(["stage", "work", "FLOPs", "GPU hours"], right=["FLOPs", "GPU hours"])
    for stage in plan.stages:
        add_row(grid, [stage.name, stage.what, _flops(stage.flops), gpu_hours(stage.hours)])
    add_row(grid, ["total", "", _flops(plan.flops), gpu_hours(plan.hours)])
    show(grid)


def _print_wall_clock(plan: Plan) -> None:
    priced = plan.cost is not None
    print_text(f"\nWall-clock hours on {plan.gpus} × {plan.gpu.name}")
    right = ["hours", "GPUs busy", *(["cost"] if priced else [])]
    grid = table(["stage", *right, "does not scale beyond"], right=right)
    for time in plan.times:
        cost = [_amount(time.cost)] if priced else []
        add_row(grid, [time.stage, gpu_hours(time.hours), percent(time.busy, 0), *cost, time.limit])
    busy = plan.hours / (plan.gpus * plan.wall_clock_hours) if plan.wall_clock_hours else 1.0
    total = [_amount(plan.cost)] if priced else []
    add_row(grid, ["total", gpu_hours(plan.wall_clock_hours), percent(busy, 0), *total, ""])
    show(grid)


def _amount(cost: float | None) -> str:
    return "" if cost is None else f"{cost:,.2f}" if cost < 100 else f"{cost:,.0f}"


def _with_total(parts: Mapping[str, float]) -> dict[str, float]:
    return {**{name.replace("_", " "): size for name, size in parts.items()}, "total": sum(parts.values())}


def _print_amounts(name: str, unit: str, amounts: Mapping[str, str]) -> None:
    grid = table([name, unit], right=[unit])
    for row in amounts.items():
        add_row(grid, row)
    show(grid)


def _flops(amount: float) -> str:
    """In powers of a thousand, for example `6.76 TFLOP`."""
    power = min(int(math.log10(max(amount, 1)) // 3), 6)
    scaled = amount / 1000**power
    figure = f"{scaled:,.0f}" if scaled >= 100 else f"{scaled:.3g}"
    return f"{figure} {'kMGTPE'[power - 1] if power else ''}FLOP"
