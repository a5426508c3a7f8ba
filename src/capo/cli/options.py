"""Arguments and options that several commands share."""

import os
from pathlib import Path
from typing import Annotated

import typer

RUNS = Path("runs")
"""The folder of runs that commands without a run directory list."""


def _silence_progress(as_json: bool) -> bool:
    """Turn off progress messages when `--json` is used."""
    if as_json:
        os.environ["CAPO_QUIET"] = "1"
    return as_json


RecipeName = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="A YAML file or the name of a shipped recipe (`capo recipes` lists them). May be left out with "
        "--run DIR, which then uses the recipe saved in DIR.",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a field of the recipe, for example train.steps=100 or rewards.0.weight=2. The value is "
        "YAML. Repeatable.",
        show_default=False,
    ),
]
Directory = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="DIR",
        help="Run directory. Default: runs/NAME, where NAME is the recipe's `name`.",
        show_default=False,
    ),
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Remake artifacts whose inputs changed. The old ones move to `replaced`."),
]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Make every N-th shard, from shard I, and commit nothing: for N independent jobs that share the "
        "run directory. Afterwards, run the command without --shard.",
        show_default=False,
    ),
]
Gpu = Annotated[
    str,
    typer.Option(
        "--gpu", metavar="NAME", help="For example h100, a100-80gb or rtx4090; an unknown name lists all."
    ),
]
Utilization = Annotated[
    float,
    typer.Option(
        "--utilization",
        "--utilisation",
        metavar="SHARE",
        help="Assumed share of the GPU's peak speed, above 0 and at most 1.",
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object and no progress.", callback=_silence_progress),
]
