"""`capo data`: images and preferences in and out; `capo calibration`."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from capo.cli.app import app, group, load
from capo.cli.options import Directory, Json, Overrides, RecipeName

EXPORT_EPILOG = """\b
Examples:
  capo data export --run runs/first --to pairs                 Parquet with Pick-a-Pic's columns
  capo data export --run runs/first --to pairs --layout folder image files and pairs.jsonl
  capo data export --run runs/first --to pairs --per-prompt 1  one pair a prompt, drawn by the seed

Both can be trained on again: `images.source` names the folder, `pairs.selection` is labels."""

SHOW_EPILOG = """\b
Examples:
  capo data show my-images/                   a folder; see docs/guides/data.md for what it may look like
  capo data show pickapic/train.parquet
  capo data show hub:yuvalkirstain/pickapic_v2 --split validation_unique"""

CALIBRATION_EPILOG = """\b
Examples:
  capo calibration --run runs/first
  capo calibration --run runs/first --set rewards.0.temperature=0.5   what if? Nothing is changed
  capo calibration --run runs/first --json"""

data_app = group(help="Images and preferences from elsewhere, and pairs for elsewhere.")
app.add_typer(data_app, name="data")

Layout = Literal["pick-a-pic", "folder"]


@data_app.command("export", epilog=EXPORT_EPILOG)
def export(
    to: Annotated[Path, typer.Option(metavar="DIR", help="The new folder.")],
    recipe: RecipeName = None,
    overrides: Overrides = None,
    directory: Directory = None,
    layout: Annotated[
        Layout, typer.Option(help="Parquet with Pick-a-Pic's columns, or image files.")
    ] = "pick-a-pic",
    per_prompt: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="At most so many pairs of a prompt; all when left out."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the pairs of a run for other trainers."""
    if as_json:
        os.environ["CAPO_QUIET"] = "1"
    from capo.cli import tables as terminal
    from capo.pairing.export import export
    from capo.store import Run

    loaded, path = load(recipe, overrides, directory)
    written = export(loaded, Run(path), to, layout, per_prompt)
    if as_json:
        terminal.print_json(written)
    else:
        print(f"{written['pairs']:,} pairs of {written['prompts']:,} prompts are in {to}")


@data_app.command("show", epilog=SHOW_EPILOG)
def show(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="As `images.source` of a recipe.")],
    split: Annotated[str | None, typer.Option(help="Of a Hub data set; train when left out.")] = None,
    column: Annotated[str | None, typer.Option(help="Of the captions.")] = None,
    as_json: Json = False,
) -> None:
    """Tell what a data set of images holds: prompts, images, labels."""
    from capo.cli import tables as terminal
    from capo.images import count_entries, open_images
    from capo.recipe import ImagesSection

    found = count_entries(open_images(ImagesSection(source=source, split=split, column=column)))
    if as_json:
        terminal.print_json(found)
    else:
        for name, value in found.items():
            print(f"{name.replace('_', ' '):20} {value:,}")


@app.command(epilog=CALIBRATION_EPILOG)
def calibration(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Show how much each reward counts in the pairs of a scored run, and which is underweighted.

    Works as soon as the scores are there; tries what --set says without making anything.
    """
    from capo.cli import tables as terminal
    from capo.cli.calibration_table import print_report
    from capo.pairing.calibration_report import calibration_report
    from capo.store import Run

    loaded, path = load(recipe, overrides, directory)
    report = calibration_report(loaded, Run(path))
    if as_json:
        terminal.print_json(asdict(report))
    else:
        print_report(report)
