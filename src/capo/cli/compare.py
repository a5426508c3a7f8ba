"""`capo compare`: run a study and tabulate it."""

from collections.abc import Sized
from pathlib import Path
from typing import Annotated

import typer

from capo.cli.app import Section, app, stop
from capo.cli.options import Force, Gpu, Json, Utilization

HELP = """Run a study: several settings, several seeds, one table.

Without STUDY, lists the shipped studies. Every row and seed is an ordinary run directory; what runs have
in common is made once. Writes table.md, index.html, figures/ and results.json to studies/NAME.

Rerun the same command to resume. A run that fails does not stop the others; the tables cover all
finished runs."""

EPILOG = """\b
Examples:
  capo compare                           list the shipped studies
  capo compare table2 --quick            check that everything runs
  capo compare table2 --plan --gpu l40s  GPU hours of all runs
  capo compare table2                    run the study
  capo compare table2 --seeds 0          run one seed only
  capo compare table2 --list             rows, and the state of every run
  capo compare my.yaml --against dpo     compare the rows with another one"""


@app.command(help=HELP, epilog=EPILOG, rich_help_panel=Section.MORE)
def compare(
    study: Annotated[
        str | None,
        typer.Argument(
            metavar="STUDY", help="A YAML file or the name of a shipped study.", show_default=False
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the study. Default: studies/NAME.", show_default=False),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Use few prompts, images and steps, to check that everything runs."),
    ] = False,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="S,S,...",
            help="Run only these seeds; the tables still cover all finished runs.",
            show_default=False,
        ),
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Show the rows and the state of their runs; run nothing.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Estimate the GPU hours of all runs; run nothing.")
    ] = False,
    gpu: Gpu = "h100",
    utilization: Utilization = 0.4,
    against: Annotated[
        str | None,
        typer.Option(metavar="ROW", help="Row to compare the others with.", show_default=False),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    from capo.cli import study_tables
    from capo.studies import load_study, shipped_studies

    if study is None:
        study_tables.print_studies(shipped_studies(), as_json)
        return
    loaded = load_study(study, quick=quick, against=against)
    folder, chosen = to or Path("studies", loaded.name), _seeds(seeds)
    if listed:
        from capo.studies.run_overview import run_overview

        selected = loaded.only(chosen)
        rows = run_overview(selected, folder)
        study_tables.print_runs(selected, rows, as_json)
        if damaged := [why for row in rows for why in row["errors"].values()]:
            stop("\n  ".join([f"Error: {_count(damaged)} cannot be read:", *damaged]), 1)
        return
    if plan:
        from capo.studies.study_cost import study_cost
        from capo.studies.study_run import runs_of

        selected = loaded.only(chosen)
        cost = study_cost(runs_of(selected, folder), gpu, utilization)
        study_tables.print_cost(selected, cost, as_json)
        return
    from capo.studies.run_study import run_study

    outcome = run_study(loaded, folder, seeds=chosen, force=force)
    study_tables.print_outcome(outcome, as_json)
    if outcome.failed:
        stop(f"Error: {_count(outcome.failed)} failed: {'; '.join(outcome.failed)}", 1)


def _count(runs: Sized) -> str:
    return "1 run" if len(runs) == 1 else f"{len(runs)} runs"


def _seeds(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"--seeds: expected integers separated by commas, for example 0,1; got {text!r}"
        ) from None
