"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

RecipeName = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="A shipped recipe's name (see `capo recipes`) or a YAML file; else the one saved in --run.",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a field, as train.steps=100 or rewards.0.weight=2; the value is YAML. Repeatable.",
        show_default=False,
    ),
]
Directory = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="DIR",
        help="The run directory; runs/NAME by default, NAME being the recipe's `name`.",
        show_default=False,
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Make again what was made from other settings; what is still right is kept."
    ),
]
Gpu = Annotated[
    str, typer.Option("--gpu", metavar="NAME", help="h100, a100-80gb, rtx4090, …; a wrong name lists them.")
]
Utilization = Annotated[
    float,
    typer.Option(
        "--utilization",
        "--utilisation",
        metavar="SHARE",
        help="Share of the GPU's peak speed to assume, above 0 and at most 1.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and no progress.")]
