"""`capo compare`: studies, which run several settings with several seeds and put them into one table."""

import os
from pathlib import Path
from typing import Annotated

import typer

from capo.cli.app import app, stop
from capo.cli.options import Force, Gpu, Json, Utilization

HELP = """Run a study: several settings, several seeds, one table.

Every row and seed is an ordinary run directory, and what runs have in common is made once. Stop it
at any time: the same command goes on, and the table is of what is done by then. A run that fails does
not stop the others."""

EPILOG = """\b
Examples:
  capo compare                            the shipped studies
  capo compare table2 --quick             does everything run? a minute or two
  capo compare table2                     the study itself, into studies/table2
  capo compare table2 --seeds 0           its first seed alone; more of them later, or on other GPUs
  capo compare table2 --list              its rows, and how far each run is
  capo compare table2 --plan --gpu l40s   GPU hours of all of it, before anything runs
  capo compare my-study.yaml --against dpo    another row to compare with"""


@app.command(help=HELP, epilog=EPILOG)
def compare(
    study: Annotated[
        str | None,
        typer.Argument(
            metavar="STUDY",
            help="A shipped study's name or a YAML file; without, the shipped ones are listed.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The study's folder; studies/NAME by default.", show_default=False),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few prompts, images and steps: shows that all of it runs.")
    ] = False,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="S,S,...",
            help="Run only these seeds of the study; the table is of all that are done.",
            show_default=False,
        ),
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Show the rows and how far their runs are; run nothing.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Count the GPU hours of all runs; run nothing.")
    ] = False,
    gpu: Gpu = "h100",
    utilization: Utilization = 0.4,
    against: Annotated[
        str | None,
        typer.Option(metavar="ROW", help="The row that others are compared with.", show_default=False),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    if as_json:
        os.environ["CAPO_QUIET"] = "1"
    from capo.cli import study_tables as printing
    from capo.studies import load_study
    from capo.studies.running import run_study
    from capo.studies.runs import runs_of

    if study is None:
        printing.print_studies(as_json)
        return
    loaded = load_study(study, quick=quick, against=against)
    folder, chosen = to or Path("studies", loaded.name), _seeds(seeds)
    if listed:
        some = loaded.only(chosen)
        printing.print_runs(some, runs_of(some, folder), as_json)
        return
    if plan:
        from capo.studies.study_cost import study_cost

        some = loaded.only(chosen)
        printing.print_cost(some, study_cost(runs_of(some, folder), gpu, utilization), as_json)
        return
    outcome = run_study(loaded, folder, seeds=chosen, force=force)
    printing.print_outcome(outcome, as_json)
    if outcome.failed:
        stop(f"Error: {len(outcome.failed)} runs failed: {', '.join(outcome.failed)}", 1)


def _seeds(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--seeds: expected numbers with commas, as 0,1, got {text!r}") from None
