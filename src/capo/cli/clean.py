"""`capo clean`: remove what `--force` replaced."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from capo.cli.app import Section, app, stop
from capo.cli.options import RUNS, Json

if TYPE_CHECKING:
    from capo.store.replaced import Replaced

HELP = """Remove what --force replaced.

Shows what every run keeps in its folder `replaced`, what it cost and how much space it takes, and asks
before removing it. Current results are not touched."""

EPILOG = """\b
Examples:
  capo clean                           all runs in runs/
  capo clean --run runs/first --yes    without asking
  capo clean --json                    only list it"""


@app.command(help=HELP, epilog=EPILOG, rich_help_panel=Section.WHOLE)
def clean(
    directory: Annotated[
        Path | None,
        typer.Option(
            "--run", metavar="DIR", help="Run directory. Default: all runs in runs/.", show_default=False
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it without asking.")] = False,
    as_json: Json = False,
) -> None:
    from capo.cli.tables import print_json, print_text
    from capo.store.replaced import replaced_folders

    if directory is not None and not directory.is_dir():
        raise typer.BadParameter(
            f"--run: {directory} is not a directory; `capo status` lists the runs in runs/"
        )
    runs = [directory] if directory is not None else sorted(path.parent for path in RUNS.glob("*/replaced"))
    found = [(run, replaced) for run in runs for replaced in replaced_folders(run)]
    values = [_values(run, replaced) for run, replaced in found] if as_json else []
    if not as_json:
        _print(found) if found else print_text("Nothing was replaced.")
        if found and not yes and not typer.confirm("Remove all of it?"):
            stop("Nothing was removed.", 1)
    if yes or not as_json:
        for run, replaced in found:
            _remove(run, replaced)
    if as_json:
        print_json({"replaced": values, "removed": yes})


def _remove(run: Path, replaced: "Replaced") -> None:
    from capo.store import Run

    with Run.open(run):
        replaced.remove()
        if not any(replaced.folder.parent.iterdir()):
            replaced.folder.parent.rmdir()


def _print(found: "list[tuple[Path, Replaced]]") -> None:
    from capo.cli.tables import add_row, print_text, show, table
    from capo.images.disk_space import format_bytes
    from capo.pipeline.costs import with_costs
    from capo.store import Run

    grid = table(["run", "replaced", "artifacts", "size"], right=["size"])
    for run, replaced in found:
        artifacts = with_costs(Run(replaced.folder), replaced.changes)
        add_row(grid, [run, replaced.time, artifacts, format_bytes(replaced.bytes)])
    show(grid)
    print_text(f"Total: {format_bytes(sum(replaced.bytes for _, replaced in found))}")


def _values(run: Path, replaced: "Replaced") -> dict[str, Any]:
    from capo.store import Run

    timings = Run(replaced.folder).timings()
    artifacts = {
        name: {
            "changes": {field: list(values) for field, values in changes.items()},
            "seconds": timings.get(name, {}).get("seconds"),
        }
        for name, changes in replaced.changes.items()
    }
    return {
        "run": str(run),
        "folder": str(replaced.folder),
        "time": replaced.time,
        "bytes": replaced.bytes,
        "artifacts": artifacts,
    }
