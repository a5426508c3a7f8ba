"""`capo plan`: the cost of a recipe before it runs."""

from typing import Annotated

import typer

from capo.cli.app import Section, app, load
from capo.cli.options import Directory, Gpu, Json, Overrides, RecipeName, Utilization

HELP = """Estimate the GPU hours, memory and disk of a recipe.

Needs no GPU and reads no weights: it counts the FLOPs of the recipe's own model at its real size. Hours
assume a share of the GPU's peak speed; `capo bench` measures the share your machine reaches."""

EPILOG = """\b
Examples:
  capo plan sdxl
  capo plan flux --gpu l40s --set train.per_device_batch_size=2
  capo plan sdxl --gpu h200 --gpus 64 --price 2.5
  capo plan sdxl --gpu a100-80gb --utilization 0.3 --json

Next: `capo run` with the same recipe and --set options."""


@app.command(help=HELP, epilog=EPILOG, rich_help_panel=Section.MORE)
def plan(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    directory: Directory = None,
    gpu: Gpu = "h100",
    utilization: Utilization = 0.4,
    gpus: Annotated[
        int, typer.Option("--gpus", metavar="N", min=1, help="Also estimate wall-clock hours on N GPUs.")
    ] = 1,
    price: Annotated[
        float | None,
        typer.Option(
            metavar="AMOUNT",
            min=0,
            help="Price of a GPU for an hour, in any currency; adds the cost of the run.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    from dataclasses import asdict

    from capo.cli.plan_table import print_plan
    from capo.cli.tables import print_json
    from capo.cost.plan import plan_run

    loaded, _ = load(recipe, overrides, directory)
    planned = plan_run(loaded, gpu, utilization, gpus=gpus, price=price)
    if as_json:
        totals = {"wall_clock_hours": planned.wall_clock_hours, "cost": planned.cost}
        print_json(asdict(planned) | totals)
    else:
        print_plan(planned)
