"""Print reward models and the results of trying one."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from capo.cli.tables import add_row, print_text, show, table


def print_rewards(rewards: Sequence[dict[str, Any]]) -> None:
    """Print what every reward measures, how its scores compare, and what it needs."""
    grid = Table.grid(padding=(0, 2))
    for reward in rewards:
        about = Text(reward.get("measures") or f"{reward['source']} from {reward['package']}")
        about.append("\n" + " · ".join(filter(None, _facts(reward))), "dim")
        grid.add_row(Text(reward["name"], "bold", no_wrap=True), about)
    Console().print(grid)
    print_text("\nDetails: capo rewards show NAME. Try one: capo rewards check NAME.")


def print_reward(reward: dict[str, Any]) -> None:
    """Print everything about one reward, one line per value."""
    for name, value in reward.items():
        if name in ("about", "problem") or value is None:
            continue
        label, described = _described(name, value)
        print_text(f"{label}: {described}")
    for text in (reward.get("problem"), reward.get("about")):
        if text:
            print_text(f"\n{text}")


def print_trial(trial: dict[str, Any]) -> None:
    """Print the scores of a reward on the sample images, its conformance, speed and memory."""
    scores = table(["prompt", "score"], title=trial["name"], right=["score"])
    for row in trial["scores"]:
        add_row(scores, [row["prompt"], "none" if row["score"] is None else f"{row['score']:.5g}"])
    show(scores)
    checks = table(["check", "result"], title="\nConformance")
    for row in trial["checks"]:
        passed = row["problem"] is None
        add_row(checks, [row["check"], Text("passed", "green") if passed else Text(row["problem"], "red")])
    show(checks)
    print_text(f"\n{', '.join(_performance(trial))}")


def _described(name: str, value: Any) -> tuple[str, str]:
    """Label and text of one value of a reward."""
    match name:
        case "comparison":
            return name, _comparison(value)
        case "parameters_millions":
            return "parameters", _millions(value)
        case "memory_megabytes":
            return "memory", _memory(value * 1e6)
        case "weights_here":
            return "weights", "downloaded" if value else "not downloaded"
        case "options":
            return name, ", ".join(f"{k}={json.dumps(v)}" for k, v in value.items()) or "none"
        case _:
            return name.replace("_", " "), str(value)


def _performance(trial: dict[str, Any]) -> Iterator[str]:
    yield f"Loaded in {trial['seconds_to_load']:.1f} s on {trial['device']}"
    if trial["images_per_second"] is not None:
        yield f"{trial['images_per_second']:.3g} images/s"
    yield f"{_memory(trial['memory'])} of main memory"
    if trial["device_memory"] is not None:
        yield f"{_memory(trial['device_memory'])} of GPU memory"


def _facts(reward: dict[str, Any]) -> Iterator[str]:
    """Short facts about a reward; some may be empty."""
    if "scale" in reward:
        yield f"scale {reward['scale']}"
    yield _comparison(reward["comparison"])
    yield reward.get("license", "")
    if (size := reward.get("parameters_millions")) is not None:
        yield f"{_millions(size)} parameters, {_memory(reward['memory_megabytes'] * 1e6)} of memory"
    yield _place(reward.get("checkpoint", ""))
    available = reward.get("weights_here", True)
    yield "" if available is None else "downloaded" if available else "not downloaded"


def _comparison(described: dict[str, Any] | None) -> str:
    if described is None:
        return ""
    parameter = "".join(f" {value:g}" for name, value in described.items() if name != "comparison")
    return described["comparison"] + parameter


def _millions(amount: float) -> str:
    return f"{amount / 1000:.1f}B" if amount >= 1000 else f"{amount:.3g}M"


def _memory(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"


def _place(checkpoint: str) -> str:
    return "ships with capo" if Path(checkpoint).is_absolute() else checkpoint.partition("@")[0]
