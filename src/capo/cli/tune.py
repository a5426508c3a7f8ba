"""`capo tune`: find β by a sweep."""

import math
from typing import Annotated

import typer

from capo.cli.app import Section, app, load
from capo.cli.options import Directory, Force, Gpu, Json, Overrides, RecipeName, Utilization

HELP = """Find β: train several values and choose one.

β decides how far training moves from the base model. If it is too large, little changes; if it is too
small, the model exploits faults of the rewards. The right value depends on the model, the data and the
objective.

Prompts, samples, scores and pairs are made once, in the run directory. Then every value trains and is
compared with the base on the validation prompts of the recipe, never on its evaluation prompts. Without
--values, the sweep tries the recipe's β, twice and half of it, and steps further while the best value is
at an edge. A value that diverges, or from half of its steps on is far behind another, is stopped.

The largest β within one standard error of the best win-rate is chosen: of values that chance may have
ordered, the one closest to the base. A value is excluded if the held-out rewards lose by it. If there are
too few validation prompts to tell the values apart, the command says how many it takes.

Writes tune/index.html, tune/results.json and tune/recipe.yaml to the run directory. Rerun the same command
to resume."""

EPILOG = """\b
Examples:
  capo tune shapes                       try it: no GPU, no download
  capo tune my.yaml --plan --gpu h100    GPU hours and disk space
  capo tune my.yaml --steps 1000         train every value for fewer steps
  capo tune my.yaml --values 250,500,1000,2000
  capo tune my.yaml --set train.objective=dpo --run runs/dpo

Next: `capo run runs/NAME/tune/recipe.yaml`, which reuses samples, scores and pairs, and the
training of the chosen value if it had all steps."""


@app.command(help=HELP, epilog=EPILOG, rich_help_panel=Section.MORE)
def tune(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    directory: Directory = None,
    values: Annotated[
        str | None,
        typer.Option(
            metavar="β,β,...",
            help="Values to try. Default: the recipe's, twice and half of it, and further ones as needed.",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="S",
            min=1,
            help="Training steps per value. Default: those of the recipe.",
            show_default=False,
        ),
    ] = None,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Estimate the GPU hours and the disk space of the sweep; run nothing."),
    ] = False,
    gpu: Gpu = "h100",
    utilization: Utilization = 0.4,
    force: Force = False,
    as_json: Json = False,
) -> None:
    from capo.cli import tune_tables
    from capo.tuning.sweep import Sweep

    loaded, path = load(recipe, overrides, directory)
    sweep = Sweep(loaded, _values(values), steps)
    if plan:
        from capo.tuning.sweep_cost import sweep_cost

        tune_tables.print_cost(sweep, sweep_cost(sweep, gpu, utilization), as_json)
        return
    from capo.tuning.run_sweep import run_sweep

    tune_tables.print_outcome(run_sweep(sweep, path, force=force), as_json)


def _values(text: str | None) -> tuple[float, ...] | None:
    try:
        values = None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if values is not None and (not values or not all(0 < value < math.inf for value in values)):
        raise typer.BadParameter(
            f"--values: expected positive numbers separated by commas, for example 250,500,1000; got {text!r}"
        )
    return values
