"""What the `capo` command prints: tables for people, JSON for programs."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from capo.pipeline import ArtifactStatus, RunResult
from capo.recipe import shipped_recipes

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


def status_values(directory: Path, found: Sequence[ArtifactStatus] | str) -> dict[str, Any]:
    """The states of all artifacts as plain JSON values, or why they cannot be told."""
    if isinstance(found, str):
        return {"directory": str(directory), "problem": found}
    return {"directory": str(directory), "artifacts": [asdict(each) for each in found]}


def print_result(result: RunResult, whole: bool) -> None:
    """What a run has come to; win-rates and the page only after a `whole` run or their stage."""
    if all(stage.skipped for stage in result.stages):
        what = "Everything" if whole else result.stages[-1].name
        print(f"{what} is done already in {result.directory}; nothing to do.")
    made = {stage.name for stage in result.stages}
    if result.results is not None and "evaluate" in made:
        _print_results(result.results)
        print(f"Side by side: {result.directory / 'evaluate' / 'index.html'}")
    if result.report is not None and "report" in made:
        print(f"Report: {result.report}")


def print_status(directory: Path, found: Sequence[ArtifactStatus]) -> None:
    """One row an artifact."""
    table = _table(str(directory), "artifact", "state", "why")
    for each in found:
        table.add_row(each.name, Text(each.state, COLORS[each.state]), Text(each.why))
    Console().print(table)


def print_runs(runs: Sequence[tuple[Path, Sequence[ArtifactStatus] | str]]) -> None:
    """One row a run: how much of it is done, and the first artifact that is not; or why none can be told."""
    if not runs:
        print("No run in ./runs yet; `capo run shapes` makes one.")
        return
    table = _table(None, "run", "done", "next", "why")
    for directory, found in runs:
        if isinstance(found, str):
            table.add_row(Text(str(directory)), "", "", Text(found))
            continue
        left = [each for each in found if each.state != "done"]
        following = (Text(left[0].name, COLORS[left[0].state]), Text(left[0].why)) if left else ("", "")
        table.add_row(Text(str(directory)), f"{len(found) - len(left)} of {len(found)}", *following)
    Console().print(table)


def print_recipes() -> None:
    """The shipped recipes, each with the comment that heads it."""
    table = _table(None, "recipe", "what it is")
    for name, path in shipped_recipes().items():
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        table.add_row(name, Text(first.removeprefix("#").strip()))
    Console().print(table)


def print_rewards(rewards: Sequence[dict[str, Any]]) -> None:
    """What each reward measures, how its scores compare, and what it takes."""
    table = Table.grid(padding=(0, 2))
    for each in rewards:
        about = Text(each.get("measures") or f"{each['source']} of {each['package']}")
        about.append("\n" + " · ".join(filter(None, _facts(each))), "dim")
        table.add_row(Text(each["name"], "bold", no_wrap=True), about)
    Console().print(table)
    print("\n`capo rewards show NAME` tells all about one, `capo rewards check NAME` tries it.")


def _facts(reward: dict[str, Any]) -> Iterator[str]:
    """What is known of a reward besides what it measures, in a few words each."""
    if "scale" in reward:
        yield f"scale {reward['scale']}"
    yield _comparison(reward["comparison"])
    yield reward.get("license", "")
    if (size := reward.get("parameters_millions")) is not None:
        memory = _amount(reward["memory_megabytes"], " MB", " GB")
        yield f"{_amount(size, 'M', 'B')} parameters, {memory} of memory"
    yield _place(reward.get("checkpoint", ""))
    here = reward.get("weights_here", True)
    yield "" if here is None else "here" if here else "not here"


def print_reward(reward: dict[str, Any]) -> None:
    """All about one reward, a line a value."""
    for name, value in reward.items():
        if name == "comparison":
            value = _comparison(value)
        if name in ("about", "problem") or value is None:
            continue
        if isinstance(value, dict):
            print(f"{name}: " + (", ".join(f"{k}={json.dumps(v)}" for k, v in value.items()) or "none"))
        else:
            print(f"{name.replace('_', ' ')}: {value}")
    for text in (reward.get("problem"), reward.get("about")):
        if text:
            print(f"\n{text}")


def print_trial(found: dict[str, Any]) -> None:
    """What a reward did on the sample images."""
    scores = _table(found["name"], "prompt", "score")
    for row in found["scores"]:
        scores.add_row(Text(row["prompt"]), "none" if row["score"] is None else f"{row['score']:.5g}")
    checks = _table("Conformance", "it", "")
    for row in found["checks"]:
        outcome = Text("yes", "green") if row["problem"] is None else Text(row["problem"], "red")
        checks.add_row(row["check"], outcome)
    Console().print(scores, checks)
    speed = found["images_per_second"]
    print(
        f"Loaded in {found['seconds_to_load']:.1f} s on {found['device']}"
        + ("" if speed is None else f"; {speed:.3g} images/s")
        + f"; {found['memory'] / 1e6:,.0f} MB of memory"
        + ("" if found["device_memory"] is None else f", {found['device_memory'] / 1e6:,.0f} MB of the GPU's")
    )


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
    names = results["models"]
    title = f"{names['tuned']} against {names['base']}"
    table = _table(title, "reward", "use", "win-rate", "95 % interval", "base against itself")
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
    if diversity := results.get("diversity"):
        difference = diversity["difference"]
        told = f"{difference['value']:+.2g} ({difference['low']:+.2g} to {difference['high']:+.2g})"
        print(
            f"Distance between images of a prompt: base {diversity['base']:.3g}, tuned "
            f"{diversity['tuned']:.3g}; difference {told}"
        )
    for warning in results.get("warnings", ()):
        print(f"Warning: {warning}")


def _table(title: str | None, *columns: str) -> Table:
    table = Table(title=title and Text(title), title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _comparison(told: dict[str, Any] | None) -> str:
    if told is None:
        return ""
    parameter = "".join(f" {value:g}" for name, value in told.items() if name != "comparison")
    return told["comparison"] + parameter


def _amount(millions: float, unit: str, thousands: str) -> str:
    return f"{millions / 1000:.1f}{thousands}" if millions >= 1000 else f"{millions:.3g}{unit}"


def _place(checkpoint: str) -> str:
    return "with capo" if Path(checkpoint).is_absolute() else checkpoint.partition("@")[0]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"
