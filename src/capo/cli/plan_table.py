"""A plan as tables for people, or as plain values."""

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from capo.cost.gpus import GIB
from capo.cost.plan import Plan
from capo.images.disk_space import format_bytes


def values(plan: Plan) -> dict[str, Any]:
    """Plain JSON values: FLOPs, hours and bytes."""
    return asdict(plan)


def print_plan(plan: Plan) -> None:
    """Work, memory and disk, then what there is to say of them."""
    console = Console()
    denoiser, trained = plan.sampling.parameters[plan.sampling.denoiser], plan.training.trained
    print(
        f"{plan.recipe}: a denoiser of {denoiser / 1e6:,.1f} M parameters; {trained / 1e6:,.1f} M are trained"
    )
    for what, flops in _single(plan).items():
        print(f"  {what}: {_flops(flops)}")
    title = f"Hours of one {plan.gpu.name}, if it reaches {plan.utilization:.0%} of its peak"
    tables = {title: _hours(plan)}
    for stage, parts in plan.memory.items():
        tables[f"Memory of the GPU, {stage} (estimate)"] = _table(("part", "GiB"), _gibibytes(parts))
    tables["Disk (estimate)"] = _table(("artifact", "size"), _sizes(plan.disk))
    for title, table in tables.items():
        print(f"\n{title}")
        console.print(table)
    for note in plan.notes:
        print(note)


def _single(plan: Plan) -> dict[str, int]:
    sampling, training = plan.sampling, plan.training
    return {
        "an image, a step of the sampler": sampling.step,
        f"an image, {sampling.steps} steps": sampling.image,
        "decoding an image": sampling.decode,
        "encoding a prompt": sampling.encode,
        "training on a pair, reference and policy": training.reference.flops + training.policy.flops,
    }


def _hours(plan: Plan) -> Table:
    rows = [(stage.name, stage.what, stage.flops, stage.hours) for stage in plan.stages]
    rows.append(("all", "", sum(s.flops for s in plan.stages), sum(s.hours for s in plan.stages)))
    columns = ("stage", "work", "FLOPs", "GPU hours")
    return _table(
        columns,
        [(name, what, _flops(flops), hours(amount)) for name, what, flops, amount in rows],
    )


def hours(amount: float) -> str:
    """`0.117`, `15.9`, `1,310`: three figures, and all before the point."""
    return f"{amount:,.3g}" if amount < 100 else f"{amount:,.0f}"


def _gibibytes(parts: dict[str, int]) -> list[tuple[str, str]]:
    whole = {**parts, "all": sum(parts.values())}
    return [(name.replace("_", " "), f"{amount / GIB:,.2f}") for name, amount in whole.items()]


def _sizes(parts: dict[str, float]) -> list[tuple[str, str]]:
    return [(name, format_bytes(amount)) for name, amount in {**parts, "all": sum(parts.values())}.items()]


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table()
    for column in columns:
        table.add_column(
            column, justify="left" if column in ("stage", "work", "part", "artifact") else "right"
        )
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _flops(amount: float) -> str:
    """In powers of a thousand, as `6.76 TFLOP`."""
    power = min(int(math.log10(max(amount, 1)) // 3), 6)
    scaled = amount / 1000**power
    figure = f"{scaled:,.0f}" if scaled >= 100 else f"{scaled:.3g}"
    return f"{figure} {'kMGTPE'[power - 1] if power else ''}FLOP"
