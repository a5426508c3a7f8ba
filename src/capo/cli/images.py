"""`capo images`: the images of a run as files, or as a contact sheet."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from capo.cli.app import Section, app, group, load
from capo.cli.options import Json
from capo.reporting.image_purposes import Purpose, made

EXPORT_HELP = """Write the images of a run as plain files.

Writes a folder for samples, validation and evaluation, as far as they are made, each with metadata.jsonl:
file name, prompt, model, sample, and a column for every reward. `datasets` loads such a folder as an
imagefolder, and `images.source` of a recipe reads it."""

EXPORT_EPILOG = """\b
Examples:
  capo images export runs/first --to images
  capo images export runs/first --to images --of samples"""

SHOW_HELP = """Open a contact sheet of a run.

Shows the samples of some prompts, or for validation and evaluation an image by every model. Opens the
picture if there is a screen, and prints where it is."""

SHOW_EPILOG = """\b
Examples:
  capo images show runs/first
  capo images show runs/first --of samples --prompts 20
  capo images show runs/first --of validation --to validation.png"""

images_app = group(help="Export the images of a run, or show them.")
app.add_typer(images_app, name="images", rich_help_panel=Section.PARTS)

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]


@images_app.command("export", help=EXPORT_HELP, epilog=EXPORT_EPILOG)
def export(
    run: RunPath,
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder to create.")],
    purpose: Annotated[
        Purpose | None,
        typer.Option("--of", help="What to export. Default: all there is.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    from capo.cli.tables import print_json, print_text
    from capo.reporting.export_images import export_images
    from capo.store import Run

    recipe, _ = load(None, None, run)
    purposes = [purpose] if purpose is not None else made(Run(run)) or ["samples"]
    counts = export_images(recipe, Run(run), to, purposes)
    if as_json:
        print_json({"folder": str(to), "images": counts})
    else:
        for kind, count in counts.items():
            print_text(f"Wrote {count:,} images to {to / kind}")


@images_app.command("show", help=SHOW_HELP, epilog=SHOW_EPILOG)
def show(
    run: RunPath,
    purpose: Annotated[
        Purpose | None,
        typer.Option("--of", help="What to show. Default: the last that is made.", show_default=False),
    ] = None,
    prompts: Annotated[int, typer.Option(metavar="N", min=1, help="Number of prompts.")] = 12,
    to: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the picture to FILE, and open nothing.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    from capo.cli.tables import print_json, print_text
    from capo.reporting.run_sheet import run_sheet
    from capo.store import Run, atomic

    load(None, None, run)  # explains what is not a run directory
    shown = purpose or (made(Run(run)) or ["samples"])[-1]
    sheet = run_sheet(Run(run), shown, prompts)
    file = to or Path(tempfile.gettempdir(), f"capo-{run.resolve().name}-{shown}.png")
    with atomic.write_file(file) as temporary:
        sheet.save(temporary, "PNG")
    if as_json:
        print_json({"file": str(file), "of": shown, "width": sheet.width, "height": sheet.height})
        return
    print_text(f"Contact sheet: {file}")
    if to is None and sys.stdout.isatty():
        typer.launch(str(file))
