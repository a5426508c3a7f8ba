"""`capo bench`: measured speed and memory on this machine."""

from typing import Annotated

import typer

from capo.cli.app import Section, app
from capo.cli.options import Json, Overrides
from capo.cost.bench import BenchPart

HELP = """Measure speed and memory of one part of the pipeline.

With --arch, measures a published architecture at its real size with random weights, so nothing is
downloaded. Without it, measures the model of --recipe. `train` compares capo with a conventional
training loop."""

EPILOG = """\b
Examples:
  capo bench train --arch sdxl         real size, for a GPU
  capo bench train --arch tiny-sdxl    1/8 of the width, for a CPU
  capo bench train --arch sdxl --case conventional --case LoRA
  capo bench generate --recipe shapes  a recipe's own model and settings
  capo bench score --recipe my.yaml    every reward of a recipe
  capo bench pairs                     calibration and pairing, on the CPU"""


@app.command(help=HELP, epilog=EPILOG, rich_help_panel=Section.MORE)
def bench(
    part: Annotated[BenchPart, typer.Argument(help="Part to measure.")],
    architecture: Annotated[
        str | None,
        typer.Option(
            "--arch",
            metavar="NAME",
            help="sd15, sdxl, sd3, sd35, sd35-large, flux, or tiny-NAME. Default: the model of --recipe.",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE",
            help="Recipe with the settings, and without --arch the model. Default: shapes.",
            show_default=False,
        ),
    ] = None,
    overrides: Overrides = None,
    cases: Annotated[
        list[str] | None,
        typer.Option(
            "--case", metavar="NAME", help="Measure only this row; repeat for several.", show_default=False
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option(metavar="N", min=1, help="Timed repetitions; the median is reported.")
    ] = 5,
    as_json: Json = False,
) -> None:
    from capo.cli.bench_table import benchmark_values, print_benchmark
    from capo.cli.tables import print_json
    from capo.cost.bench.benchmark import bench as measure_part

    *_, measured = measure_part(part, architecture, recipe, overrides or (), repeats, cases or ())
    if as_json:
        print_json(benchmark_values(measured))
    else:
        print_benchmark(measured)
