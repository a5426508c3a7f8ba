"""Print the cost and the results of a sweep."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from capo.cli.tables import add_row, gpu_hours, percent, print_json, print_text, show, table
from capo.images.disk_space import format_bytes
from capo.pipeline import status
from capo.recipe import load_recipe
from capo.store.run_directory import SWEEP
from capo.tuning.run_sweep import SweepOutcome
from capo.tuning.sweep import Sweep
from capo.tuning.sweep_cost import SweepCost

BAR = 8
"""Characters of the longest bar."""


def print_cost(sweep: Sweep, cost: SweepCost, as_json: bool) -> None:
    """Print the GPU hours of what is shared and of the values, and the disk space of the values."""
    if as_json:
        totals = {"hours": cost.hours, "most_hours": cost.most_hours}
        print_json({"recipe": sweep.recipe.name, "steps": sweep.last_step, **asdict(cost), **totals})
        return
    print_text(
        f"{sweep.recipe.name}: β of {sweep.recipe.train.objective} on one {cost.gpu}, assuming "
        f"{percent(cost.utilization, 0)} of its peak speed"
    )
    grid = table(["artifact", "number", "GPU hours"], right=["GPU hours"])
    for kind, hours in cost.shared.items():
        add_row(grid, [kind, "once", gpu_hours(hours)])
    training = f"{cost.values} values × {sweep.last_step:,} steps"
    add_row(grid, ["training", training, gpu_hours(cost.values * cost.per_value)])
    add_row(grid, ["total", "", gpu_hours(cost.hours)])
    show(grid)
    if cost.most_values > cost.values:
        print_text(f"At most {gpu_hours(cost.most_hours)}, if the sweep tries {cost.most_values} values.")
    one, all_values = format_bytes(cost.bytes_per_value), format_bytes(cost.values * cost.bytes_per_value)
    print_text(
        f"Disk: {one} for the policy and the checkpoints of a value, {all_values} for {cost.values} values."
    )
    for note in cost.notes:
        print_text(f"Note: {note}")


def print_outcome(outcome: SweepOutcome, as_json: bool) -> None:
    """Print the curve, the choice, and what to do next."""
    results = outcome.results
    if as_json:
        written = None if outcome.recipe is None else str(outcome.recipe)
        print_json({"directory": str(outcome.directory), "tuned_recipe": written, **results})
        return
    head = ["β", "step", "win-rate", "", *(_title(name, use) for name, use in results["rewards"].items())]
    title = "Validation win-rates over the base, in % ± standard error"
    grid = table([*head, "drift"], title=title, right=["win-rate"])
    best = max(value["best"]["win_rate"]["value"] for value in results["values"] if value["best"])
    for value in results["values"]:
        add_row(grid, _cells(value, results, best))
    show(grid)
    for note in _notes(results):
        print_text(note)
    print_text(f"\n{results['conclusion']}.")
    for warning in results["warnings"]:
        print_text(f"Warning: {warning}.")
    print_text(f"\nCurves: {outcome.directory / SWEEP / 'index.html'}")
    if outcome.recipe is not None:
        print_text(f"Recipe: {outcome.recipe}\nNext:   {_next(outcome)}")


def _title(name: str, use: str) -> str:
    return f"{name} (held out)" if use == "evaluate" else name


def _cells(value: Mapping[str, Any], results: Mapping[str, Any], best: float) -> Iterator[object]:
    row = value["best"]
    yield f"{value['beta']:g}"
    if row is None:
        yield from ["", "diverged"]
        return
    yield f"{row['step']:,}"
    yield _rate(row["win_rate"])
    yield _bar(row["win_rate"]["value"], best) + (" chosen" if value["beta"] == results["chosen"] else "")
    for name in results["rewards"]:
        yield _rate(row["rewards"][name])
    yield f"{row['drift']:.2g}"


def _bar(rate: float, best: float) -> str:
    """Draw a win-rate above one half; the best has the longest bar."""
    return "█" * max(0, round(BAR * (rate - 0.5) / max(best - 0.5, 1e-9)))


def _rate(estimate: Mapping[str, float | None]) -> str:
    value, error = estimate["value"], estimate["error"]
    assert value is not None
    return f"{100 * value:.1f}" + ("" if error is None else f" ±{100 * error:.1f}")


def _notes(results: Mapping[str, Any]) -> Iterator[str]:
    for value in results["values"]:
        if value["ending"] == "behind":
            yield f"β {value['beta']:g} was stopped: {value['why']}."
        elif value["ending"] == "diverged":
            yield f"β {value['beta']:g} diverged: {value['why']}."
        if value["hacking"]:
            yield f"β {value['beta']:g} is excluded: {value['hacking']}."


def _next(outcome: SweepOutcome) -> str:
    """The command that continues with the chosen value, in the run directory of the sweep."""
    assert outcome.recipe is not None
    recipe = load_recipe(outcome.recipe)
    elsewhere = outcome.directory.resolve() != Path("runs", recipe.name).resolve()
    stale = any(artifact.state == "stale" for artifact in status(recipe, outcome.directory))
    words = ["capo", "run", str(outcome.recipe)]
    words += ["--run", str(outcome.directory)] if elsewhere else []
    words += ["--force"] if stale else []
    return shlex.join(words)
