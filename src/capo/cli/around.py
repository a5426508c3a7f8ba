"""What is done before and after a run: soups, costs, measurements, recipes, embedded checkpoints."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from capo.cli.app import app, group, load
from capo.cli.options import Directory, Gpu, Json, Overrides, RecipeName, Utilization
from capo.cost.bench import Part

SOUP_EPILOG = """\b
Examples:
  capo soup runs/mps runs/vqa runs/vila --to soups/all
  capo soup runs/mps runs/vqa --to soups/mps-vqa --weights 2,1 --rank 16
  capo soup runs/mps runs/vqa --to soups/front --sweep 5
  capo evaluate my.yaml --policy soups/all --run runs/soup"""

PLAN_EPILOG = """\b
Examples:
  capo plan sdxl                                  the paper's run, on an H100
  capo plan flux --gpu l40s --set train.per_device_batch_size=2
  capo plan sdxl --gpu a100-80gb --utilization 0.3 --json"""

BENCH_EPILOG = """\b
Examples:
  capo bench train --arch sdxl                 real size, random weights: nothing is downloaded
  capo bench train --arch tiny-sdxl            the same an eighth as wide: for a CPU
  capo bench generate --recipe shapes          a recipe's own model and settings
  capo bench train --arch sd3 --set train.per_device_batch_size=8 --json"""


recipes_app = typer.Typer(help="List the shipped recipes, or show one.", invoke_without_command=True)
shapes_app = group(help="Build the embedded checkpoints again.")
app.add_typer(recipes_app, name="recipes")
app.add_typer(shapes_app, name="shapes")

Interpolation = Literal["slerp", "linear"]
Angle = Literal["tensor", "global"]


@app.command(epilog=SOUP_EPILOG)
def soup(
    policies: Annotated[
        list[Path], typer.Argument(metavar="POLICY", help="Policy folders or run directories.")
    ],
    to: Annotated[Path, typer.Option(metavar="DIR", help="The new folder.")],
    interpolation: Annotated[Interpolation, typer.Option(help="Along arcs or straight.")] = "slerp",
    angle: Annotated[Angle, typer.Option(help="Of slerp: one for each tensor or for all.")] = "tensor",
    weights: Annotated[
        str | None,
        typer.Option(metavar="W,W,...", help="How much each policy counts; equally when left out."),
    ] = None,
    sweep: Annotated[
        int | None,
        typer.Option(metavar="N", min=2, help="Soups of all weightings, N from each policy to each other."),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(metavar="R", min=1, help="Of a LoRA soup; exact, the sum of all ranks, when left out."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(metavar="CHECKPOINT", help="What full policies were tuned from, if it was moved."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Merge several policies of one base into one."""
    if as_json:
        os.environ["CAPO_QUIET"] = "1"
    from capo.cli import tables as terminal
    from capo.soups.merge import SoupSettings, soup, soup_front

    settings = SoupSettings(interpolation, angle, rank, base)
    if sweep is None:
        made = [{"folder": str(to), **soup(policies, to, settings, _numbers("--weights", weights))}]
    elif weights is None:
        made = soup_front(policies, to, settings, sweep)
    else:
        raise typer.BadParameter("--sweep chooses the weights; leave out --weights")
    if as_json:
        terminal.print_json({"directory": str(to), "soups": made})
    else:
        terminal.print_soups(to, made)


@app.command(epilog=PLAN_EPILOG)
def plan(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    directory: Directory = None,
    gpu: Gpu = "h100",
    utilization: Utilization = 0.4,
    as_json: Json = False,
) -> None:
    """Count what a recipe will cost before it runs: GPU hours by stage, memory by part, disk.

    The model's configuration is enough: no weights are read, and no GPU is needed.
    """
    from capo.cli import tables as terminal
    from capo.cli.plan_table import print_plan, values
    from capo.cost.plan import plan_run

    loaded, _ = load(recipe, overrides, directory)
    found = plan_run(loaded, gpu, utilization)
    if as_json:
        terminal.print_json(values(found))
    else:
        print_plan(found)


@app.command(epilog=BENCH_EPILOG)
def bench(
    part: Annotated[Part, typer.Argument(metavar="PART", help="train, generate, decode, score or pairs.")],
    architecture: Annotated[
        str | None,
        typer.Option("--arch", metavar="NAME", help="As sdxl or tiny-sd3; else the model of --recipe."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="RECIPE", help="Settings, and the model without --arch; `shapes` by default."),
    ] = None,
    overrides: Overrides = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed repetitions; their median counts.")] = 5,
    as_json: Json = False,
) -> None:
    """Measure seconds, memory and share of the chip's peak of a part of the pipeline."""
    if as_json:
        os.environ["CAPO_QUIET"] = "1"
    from capo.cli import tables as terminal
    from capo.cli.bench_table import print_table, values
    from capo.cost.bench.benchmark import bench as run_bench

    found = run_bench(part, architecture, recipe, overrides or (), repeats)
    if as_json:
        terminal.print_json(values(found))
    else:
        print_table(found)


@recipes_app.callback()
def recipes(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        from capo.cli import tables as terminal

        terminal.print_recipes()


@recipes_app.command("show")
def show_recipe(name: Annotated[str, typer.Argument(help="Its name.")]) -> None:
    """Print a shipped recipe, comments and all: a start for your own."""
    from capo.recipe import RecipeError, shipped_recipes

    shipped = shipped_recipes()
    if name not in shipped:
        raise RecipeError(f"no shipped recipe {name!r}; there are {', '.join(shipped)}")
    typer.echo(shipped[name].read_text(encoding="utf-8"), nl=False)


@shapes_app.command("build")
def build_shapes(
    directory: Annotated[Path, typer.Option("--to", metavar="DIR", help="Where the checkpoints go.")],
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    parts: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these parts; all when left out.")
    ] = None,
) -> None:
    """Train the embedded checkpoints again, from drawn scenes alone; a stopped build goes on."""
    from capo.shapes.build import PARTS, build

    build(directory, device, tuple(parts.split(",")) if parts else PARTS)


def _numbers(option: str, text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{option}: expected numbers with commas, as 2,1, got {text!r}") from None
