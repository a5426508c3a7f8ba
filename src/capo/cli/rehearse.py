"""`capo rehearse`: every part of a run with two prompts, and what it says about the whole run."""

from typing import Annotated

import typer

from capo.cli.app import Section, app, load
from capo.cli.options import Json, Overrides

HELP = """Try every part of a run in minutes.

Runs all stages with the real models and rewards, but with two prompts of every set, at most 16 images of a
prompt, two steps of sampling and training, one validation and one evaluation. Reports seconds and peak memory
by part, and the hours of the whole run at the measured speed. Keeps nothing, unless a stage fails."""

EPILOG = """\b
Examples:
  capo rehearse my.yaml
  capo rehearse my.yaml --set train.per_device_batch_size=8 --json

Next: `capo run` with the same recipe and --set options."""

Recipe = Annotated[
    str,
    typer.Argument(help="A YAML file or the name of a shipped recipe (`capo recipes` lists them)."),
]


@app.command(help=HELP, epilog=EPILOG, rich_help_panel=Section.WHOLE)
def rehearse(recipe: Recipe, overrides: Overrides = None, as_json: Json = False) -> None:
    from capo.cli.rehearse_table import print_rehearsal, rehearsal_values
    from capo.cli.tables import print_json
    from capo.cost.rehearsal.rehearse import rehearse as rehearse_recipe

    loaded, _ = load(recipe, overrides, None)
    rehearsal = rehearse_recipe(loaded)
    if as_json:
        print_json(rehearsal_values(rehearsal))
    else:
        print_rehearsal(rehearsal)
