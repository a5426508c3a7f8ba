"""Print the results and the states of runs."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.text import Text

from capo.cli.benchmark_table import print_scores
from capo.cli.tables import add_row, percent, points, print_text, show, table
from capo.pipeline import ArtifactStatus, RunResult
from capo.pipeline.parts import PartResult
from capo.reporting.results_schema import Results
from capo.reporting.wording import verdict

COLORS = {"done": "green", "partial": "yellow", "stale": "red", "missing": "dim"}

States = Sequence[ArtifactStatus] | str
"""States of all artifacts of a run, or the error that reading them raised."""


def result_values(result: RunResult) -> dict[str, Any]:
    """Return a `RunResult` as JSON values."""
    return {
        "directory": str(result.directory),
        "stages": [asdict(stage) for stage in result.stages],
        "report": None if result.report is None else str(result.report),
        "results": result.results,
        "benchmarks": result.benchmarks,
    }


def status_values(directory: Path, states: States) -> dict[str, Any]:
    """Return the states of a run's artifacts as JSON values, or the problem."""
    if isinstance(states, str):
        return {"directory": str(directory), "problem": states}
    return {"directory": str(directory), "artifacts": [asdict(artifact) for artifact in states]}


def print_result(result: RunResult, whole: bool) -> None:
    """Print what a command did; `whole` is True if it ran all stages.

    Win-rates and the report appear only if their stage belongs to the command.
    """
    if all(stage.skipped for stage in result.stages):
        subject = str(result.directory) if whole else f"{result.stages[-1].name} in {result.directory}"
        print_text(f"{subject} is up to date; nothing to do.")
    stages = {stage.name for stage in result.stages}
    if result.results is not None and "evaluate" in stages:
        _print_results(result.results)
        print_text(f"Side by side: {result.directory / 'evaluate' / 'index.html'}")
    for name, results in result.benchmarks.items():
        if f"benchmarks/{name}/results" in stages:
            print_scores(results)
            print_text(f"Page: {result.directory / 'benchmarks' / name / 'results' / 'index.html'}")
    if "train" in stages:
        print_text(f"Tuned model: {result.directory / 'train' / 'best'}")
    if result.report is not None and "report" in stages:
        print_text(f"Report: {result.report}")


def part_values(directory: Path, results: Sequence[PartResult]) -> dict[str, Any]:
    """Return what a command with `--shard` did as JSON values."""
    return {"directory": str(directory), "parts": [asdict(result) for result in results]}


def print_parts(directory: Path, results: Sequence[PartResult]) -> None:
    """Print what a command with `--shard` did, and what is left."""
    if not results:
        print_text(f"{directory} is up to date; nothing to do.")
        return
    for result in results:
        print_text(
            f"{', '.join(result.artifacts)}: {result.made} shards made, {result.left} left to other parts"
        )
    print_text("When all parts have ended, run the command without --shard: it makes the rest and commits.")


def print_status(directory: Path, states: Sequence[ArtifactStatus]) -> None:
    """Print one row per artifact."""
    grid = table(["artifact", "state", "why"], title=str(directory))
    for artifact in states:
        add_row(grid, [artifact.name, Text(artifact.state, COLORS[artifact.state]), artifact.why])
    show(grid)


def print_runs(runs: Sequence[tuple[Path, States]]) -> None:
    """Print one row per run: how many artifacts are done, and the first one that is not."""
    if not runs:
        print_text("No runs in ./runs yet. Start one with `capo run shapes`.")
        return
    grid = table(["run", "done", "next", "why"])
    for directory, states in runs:
        if isinstance(states, str):
            add_row(grid, [directory, "", "", states])
            continue
        left = [artifact for artifact in states if artifact.state != "done"]
        following = [Text(left[0].name, COLORS[left[0].state]), left[0].why] if left else ["", ""]
        add_row(grid, [directory, f"{len(states) - len(left)} of {len(states)}", *following])
    show(grid)


def _print_results(results: dict[str, Any]) -> None:
    names = results["models"]
    grid = table(
        ["reward", "use", "win-rate", "95% interval", "chance"],
        title=f"{names['tuned']} against {names['base']}",
        right=["win-rate", "95% interval", "chance"],
    )
    if sum(row["use"] == "train" for row in results["rewards"]) > 1:
        mean = results["training_win_rate"]
        add_row(grid, ["mean of training rewards", "train", *_rate(mean, "value", "null")])
    for row in results["rewards"]:
        add_row(grid, [row["name"], row["use"], *_rate(row, "win_rate", "null_win_rate")])
    show(grid)
    if any("null_win_rate" in row for row in results["rewards"]):
        print_text("chance: win-rate of the base model against itself with other seeds")
    if joint := results.get("joint"):
        print_text("Images better or worse than the base's by all rewards at once:")
        print_text(f"  better {_joint_rate(joint['domination'])}, worse {_joint_rate(joint['collapse'])}")
    if judge := results.get("judge"):
        print_text(
            f"Images judged correct ({judge['name']}): {percent(judge['base'])} → "
            f"{percent(judge['tuned'])}, {points(judge['difference'])} points "
            f"({points(judge['low'])} to {points(judge['high'])})"
        )
    if diversity := results.get("diversity"):
        value, *bounds = (diversity["difference"][name] for name in ("value", "low", "high"))
        text = f"Diversity of a prompt's images: {diversity['base']:.3g} → {diversity['tuned']:.3g}"
        if None not in bounds:
            text += f", {value:+.2g} ({bounds[0]:+.2g} to {bounds[1]:+.2g})"
        print_text(text)
    print_text(verdict(Results.model_validate(results)).sentence)
    for warning in results.get("warnings", ()):
        print_text(f"Warning: {warning}")


def _rate(row: dict[str, Any], rate: str, chance: str) -> list[str]:
    """Return the cells of a win-rate, its interval, and the base against itself."""
    return [percent(row[rate]), f"{percent(row['low'])} to {percent(row['high'])}", percent(row.get(chance))]


def _joint_rate(rate: dict[str, Any]) -> str:
    return f"{percent(rate['rate'])} ({percent(rate['low'])} to {percent(rate['high'])})"
