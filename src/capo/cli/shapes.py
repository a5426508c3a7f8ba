"""`capo shapes`: rebuild the embedded checkpoints."""

from pathlib import Path
from typing import Annotated

import typer

from capo.cli.app import Section, app, group

shapes_app = group(help="Rebuild the small embedded models.")
app.add_typer(shapes_app, name="shapes", rich_help_panel=Section.PARTS)

HELP = """Train the embedded models from scratch, on generated scenes only.

Users do not need this: the trained models come with the package. Rerun the same command to resume."""


@shapes_app.command("build", help=HELP)
def build_shapes(
    directory: Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder for the checkpoints.")],
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda or mps.")] = "cpu",
    parts: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Build only these parts. Default: all.", show_default=False),
    ] = None,
) -> None:
    from capo.shapes.build import PARTS, build

    build(directory, device, tuple(parts.split(",")) if parts else PARTS)
