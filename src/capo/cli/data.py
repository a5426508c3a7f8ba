"""`capo data`: export pairs for other trainers, inspect images from other sources."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from capo.cli.app import Section, app, group, load
from capo.cli.options import Directory, Json, Overrides, RecipeName

EXPORT_HELP = """Write the pairs of a run for other trainers.

capo can train on both layouts: set `images.source` to the folder and `pairs.selection` to labels."""

EXPORT_EPILOG = """\b
Examples:
  capo data export --run runs/first --to pairs
  capo data export --run runs/first --to pairs --layout folder
  capo data export --run runs/first --to pairs --per-prompt 1"""

SHOW_HELP = """Show what an image data set contains: prompts, images, labels.

SOURCE is a folder, a Parquet file, or a Hub data set, as `images.source` in a recipe."""

SHOW_EPILOG = """\b
Examples:
  capo data show my-images/
  capo data show pickapic/train.parquet
  capo data show hub:yuvalkirstain/pickapic_v2 --split validation_unique"""

data_app = group(help="Export pairs, or inspect images from other sources.")
app.add_typer(data_app, name="data", rich_help_panel=Section.PARTS)

Layout = Literal["pick-a-pic", "folder"]


@data_app.command("export", help=EXPORT_HELP, epilog=EXPORT_EPILOG)
def export(
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder to create.")],
    recipe: RecipeName = None,
    overrides: Overrides = None,
    directory: Directory = None,
    layout: Annotated[
        Layout,
        typer.Option(help="Parquet with Pick-a-Pic's columns, or image files with pairs.jsonl."),
    ] = "pick-a-pic",
    per_prompt: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="At most N pairs per prompt, drawn with the recipe's seed. Default: all.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    from capo.cli.tables import print_json, print_text
    from capo.pairing.export import export
    from capo.store import Run

    loaded, path = load(recipe, overrides, directory)
    written = export(loaded, Run(path), to, layout, per_prompt)
    if as_json:
        print_json(written)
    else:
        print_text(f"Wrote {written['pairs']:,} pairs of {written['prompts']:,} prompts to {to}")


@data_app.command("show", help=SHOW_HELP, epilog=SHOW_EPILOG)
def show(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Folder, Parquet file or hub:NAME.")],
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Split of a Hub data set. Default: train.", show_default=False),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Column that holds the captions.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    from capo.cli.tables import print_json, print_text
    from capo.images import count_entries, open_images
    from capo.recipe import ImagesSection

    counts = count_entries(open_images(ImagesSection(source=source, split=split, column=column)))
    if as_json:
        print_json(counts)
    else:
        # An image that belongs to several comparisons counts in all of them.
        for name, value in counts.items():
            label = "image entries" if name == "images" else name.replace("_", " ")
            print_text(f"{label:20} {value:,}")
