"""`capo status`: what is done and what is not."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from capo.cli.app import Section, app, load
from capo.cli.options import RUNS, Directory, Json, Overrides, RecipeName

if TYPE_CHECKING:
    from capo.pipeline import ArtifactStatus

HELP = """Show what is up to date in a run, what is not, and why.

Without RECIPE and --run, lists all runs in runs/. Changes nothing."""

EPILOG = """\b
Examples:
  capo status                                       all runs in runs/
  capo status --run runs/first                      one run
  capo status --run runs/first --set train.beta=50  what a change makes stale
  capo status --run runs/first --verify             whether a file is damaged"""


@app.command(help=HELP, epilog=EPILOG, rich_help_panel=Section.WHOLE)
def status(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    directory: Directory = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Read the weights, the data and all files of the run again and compare their contents.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    from capo import pipeline
    from capo.cli.run_tables import print_runs, print_status, status_values
    from capo.cli.tables import print_json
    from capo.store.file_digests import files_read_again

    if recipe is None and directory is None:
        runs = list(_saved_runs(RUNS))
        if as_json:
            print_json({"runs": [status_values(path, states) for path, states in runs]})
        else:
            print_runs(runs)
        return
    loaded, path = load(recipe, overrides, directory)
    with files_read_again() if verify else nullcontext():
        states = pipeline.status(loaded, path)
    if verify:
        pipeline.verify(states, path)
    if as_json:
        print_json(status_values(path, states))
    else:
        print_status(path, states)


def _saved_runs(folder: Path) -> "Iterator[tuple[Path, list[ArtifactStatus] | str]]":
    """Yield the run directories in a folder with their states, or the error that reading them raised."""
    from capo import pipeline
    from capo.recipe import load_recipe

    for file in sorted(folder.glob("*/recipe.yaml")):
        try:
            yield file.parent, pipeline.status(load_recipe(file), file.parent)
        except (ValueError, OSError, RuntimeError) as error:  # one bad run must not hide the others
            yield file.parent, str(error)
