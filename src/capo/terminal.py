"""What the `capo` command prints: tables for people, JSON for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from capo.pipeline import ArtefactStatus, RunResult
from capo.recipe import RewardSection, shipped_recipes

COLORS = {"done": "green", "partial": "yellow", "stale": "red", "missing": "dim"}


def print_json(values: Any) -> None:
    """One JSON object on stdout."""
    print(json.dumps(values, ensure_ascii=False, allow_nan=False))


def result_values(result: RunResult) -> dict[str, Any]:
    """A `RunResult` as plain JSON values."""
    return {
        "directory": str(result.directory),
        "stages": [asdict(stage) for stage in result.stages],
        "report": None if result.report is None else str(result.report),
        "results": result.results,
    }


def status_values(directory: Path, found: Sequence[ArtefactStatus]) -> dict[str, Any]:
    """The states of all artefacts as plain JSON values."""
    return {"directory": str(directory), "artefacts": [asdict(each) for each in found]}


def print_result(result: RunResult, whole: bool) -> None:
    """What a run has come to; win-rates and the page only after a `whole` run or their stage."""
    if all(stage.skipped for stage in result.stages):
        what = "Everything" if whole else result.stages[0].name
        print(f"{what} is done already in {result.directory}; nothing to do.")
    made = {stage.name for stage in result.stages}
    if result.results is not None and "evaluate" in made:
        _print_results(result.results)
    if result.report is not None and "report" in made:
        print(f"Report: {result.report}")


def print_status(directory: Path, found: Sequence[ArtefactStatus]) -> None:
    """One row an artefact."""
    table = _table(str(directory), "artefact", "state", "why")
    for each in found:
        table.add_row(each.name, Text(each.state, COLORS[each.state]), Text(each.why))
    Console().print(table)


def print_recipes() -> None:
    """The shipped recipes, each with the comment that heads it."""
    table = _table(None, "recipe", "what it is")
    for name, path in shipped_recipes().items():
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        table.add_row(name, Text(first.removeprefix("#").strip()))
    Console().print(table)


def print_rewards(as_json: bool) -> None:
    """The shipped rewards: what each measures, and how its scores compare."""
    from capo.rewards import SHIPPED, declared_comparison

    rows = []
    for name, shipped in SHIPPED.items():
        comparison = repr(declared_comparison(RewardSection(name=name)))
        rows.append({"name": name, "measures": shipped.measures, "comparison": comparison})
    if as_json:
        print_json({"rewards": rows})
        return
    table = _table(None, "reward", "what it measures", "comparison")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row.values()))
    Console().print(table)


def print_soups(directory: Path, made: Sequence[dict[str, Any]]) -> None:
    """The policies that `capo soup` wrote, one row each."""
    table = _table(str(directory), "policy", "weights", "rank", "relative error")
    for each in made:
        weights = ", ".join(f"{weight:g}" for weight in each["weights"])
        rank, error = each.get("rank"), each.get("relative_error")
        table.add_row(
            Text(each["folder"]),
            weights,
            "" if rank is None else str(rank),
            "" if error is None else f"{error:.2g}",
        )
    Console().print(table)


def _print_results(results: dict[str, Any]) -> None:
    table = _table("Tuned against base", "reward", "use", "win-rate", "95 % interval", "base against itself")
    for row in results["rewards"]:
        chance = row.get("null_win_rate")
        table.add_row(
            Text(row["name"]),
            row["use"],
            _percent(row["win_rate"]),
            f"{_percent(row['low'])} to {_percent(row['high'])}",
            "" if chance is None else _percent(chance),
        )
    Console().print(table)
    if judge := results.get("judge"):
        print(
            f"Right by the {judge['name']} judge: base {_percent(judge['base'])}, tuned "
            f"{_percent(judge['tuned'])}; difference {_points(judge['difference'])} "
            f"({_points(judge['low'])} to {_points(judge['high'])})"
        )
    for warning in results.get("warnings", ()):
        print(f"Warning: {warning}")


def _table(title: str | None, *columns: str) -> Table:
    table = Table(title=title and Text(title), title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"
