"""`capo people`: plan a study, add votes, report, and exchange votes with other tools."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from capo.cli.app import stop
from capo.cli.options import Json
from capo.cli.people import people_app

StudyFolder = Annotated[Path, typer.Argument(metavar="STUDY", help="Folder that `capo people make` created.")]

POWER_HELP = """Say how many prompts and raters it takes to show a difference.

Prints the probability that a study of this size shows a win-rate of 50% plus POINTS, the smallest difference
that it shows with the wanted probability, and the prompts that other numbers of raters need. Every rater
judges all prompts."""

POWER_EPILOG = """\b
Examples:
  capo people power --prompts 200 --raters 5 --points 4
  capo people power --points 5 --power 0.9
  capo people power --pilot study --points 3     as votes of this study vary"""


@people_app.command("power", help=POWER_HELP, epilog=POWER_EPILOG)
def power(
    prompts: Annotated[int, typer.Option(metavar="N", help="Number of prompts.")] = 200,
    raters: Annotated[int, typer.Option(metavar="N", help="Number of raters.")] = 5,
    points: Annotated[
        float, typer.Option(metavar="D", help="Difference from 50%, in percentage points.")
    ] = 5.0,
    wanted: Annotated[
        float, typer.Option("--power", metavar="SHARE", help="Wanted probability, above 0.05 and below 1.")
    ] = 0.8,
    agreement: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="How often two raters choose the same image of a pair. Default: 0.65.",
            show_default=False,
        ),
    ] = None,
    spread: Annotated[
        float | None,
        typer.Option(
            "--rater-spread",
            metavar="POINTS",
            help="Standard deviation of the raters' own win-rates, in percentage points. Default: 3.",
            show_default=False,
        ),
    ] = None,
    pilot: Annotated[
        Path | None,
        typer.Option(
            metavar="STUDY",
            help="Take agreement and spread from the votes of this study on its first question.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    from capo.cli.people_vote_tables import print_power
    from capo.people.pilot import assumed, measured, plan

    if pilot is not None and (agreement is not None or spread is not None):
        raise typer.BadParameter("--pilot: leave out --agreement and --rater-spread, which it measures")
    statistics = None if pilot is None else measured(pilot)
    votes = (
        assumed(agreement, None if spread is None else spread / 100)
        if statistics is None
        else statistics.votes
    )
    values = plan(prompts, raters, points / 100, votes, wanted)
    values["measured"] = None if statistics is None else asdict(statistics) | {"study": str(pilot)}
    print_power(values, as_json)


ADD_HELP = """Add votes files to a study.

Every file is checked against the study first: damaged, changed, foreign or contradictory files are refused,
with the line at fault, and do not keep the others out. Adding a file again changes nothing."""

ADD_EPILOG = """\b
Example:
  capo people add study downloads/capo-votes-*.json"""


@people_app.command("add", help=ADD_HELP, epilog=ADD_EPILOG)
def add(
    study: StudyFolder,
    votes: Annotated[list[Path], typer.Argument(metavar="VOTES...", help="Files that the page saved.")],
    as_json: Json = False,
) -> None:
    from capo.cli.people_vote_tables import print_added
    from capo.people.collect import add_votes

    added = add_votes(study, votes)
    print_added(added, as_json)
    refused = sum(each.outcome == "refused" for each in added)
    if refused:
        stop(f"Error: {refused} of {len(added)} files refused", 1)


REPORT_HELP = """Write the report of a study: who wins, and how certain that is.

Writes index.html, results.json, table.md, pairs.csv and votes.csv to STUDY/report. They name the models:
publish them only when no more votes are to come."""


@people_app.command("report", help=REPORT_HELP)
def report(study: StudyFolder, as_json: Json = False) -> None:
    from capo.cli.people_vote_tables import print_report
    from capo.people.votes_report import write_votes_report

    print_report(study, write_votes_report(study), as_json)


EXPORT_HELP = """Export a study for Rapidata or Label Studio, or votes to train on.

rapidata: arguments of a compare job per question, for the Python SDK 3.21. label-studio: tasks and a
labeling configuration per question, for Label Studio 1.13. pick-a-pic: Parquet with Pick-a-Pic's columns, on
which a run trains with `images.source` and `pairs.selection: labels`."""

EXPORT_EPILOG = """\b
Examples:
  capo people export study --layout rapidata --to for-rapidata
  capo people export study --layout label-studio --to for-label-studio --images https://example.org/study/
  capo people export study --layout pick-a-pic --to labels"""

Layout = Literal["rapidata", "label-studio", "pick-a-pic"]


@people_app.command("export", help=EXPORT_HELP, epilog=EXPORT_EPILOG)
def export(
    study: StudyFolder,
    layout: Annotated[Layout, typer.Option(help="What reads the result.")],
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder to create.")],
    question: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Only this question. Default: all, or the first for pick-a-pic.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="For label-studio: where the folder images/ is served."),
    ] = "/data/local-files/?d=",
    as_json: Json = False,
) -> None:
    from capo.cli.people_vote_tables import print_exported
    from capo.people.exchange import export_study

    print_exported(export_study(study, to, layout, question, images), as_json)


IMPORT_HELP = """Import the results of Rapidata or Label Studio.

RESULTS is job.get_results() of Rapidata saved as JSON, or the JSON export of a Label Studio project. The same
file again changes nothing, and a later one with more votes replaces it."""


@people_app.command("import", help=IMPORT_HELP)
def import_(
    study: StudyFolder,
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="JSON file of the other tool.")],
    as_json: Json = False,
) -> None:
    from capo.cli.people_vote_tables import print_imported
    from capo.people.exchange import import_results

    print_imported(import_results(study, results), as_json)


SIMULATE_HELP = """Write votes of simulated raters, to rehearse a study.

They look at the images of the embedded world, so the study must be of its prompts. Kinds of raters: careful,
noisy (4 of 10 votes at random), biased (3 of 10 votes for the tuned model), sided (left in 97% of votes),
lazy (all at random, in 0.3 seconds)."""

SIMULATE_EPILOG = """\b
Example:
  capo people simulate study --to rehearsal --raters careful,careful,careful,noisy,sided,lazy
  capo people add study rehearsal/*.json"""


@people_app.command("simulate", help=SIMULATE_HELP, epilog=SIMULATE_EPILOG)
def simulate(
    study: StudyFolder,
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder to create for the votes files.")],
    raters: Annotated[
        str, typer.Option(metavar="KIND,KIND,...", help="One rater for every kind named.")
    ] = "careful,careful,careful,noisy,sided,lazy",
    prompts: Annotated[
        str, typer.Option(metavar="SOURCE", help="Source of the study's prompts, with their metadata.")
    ] = "shapes:test",
    people: Annotated[
        str, typer.Option(metavar="NAME", help="Simulated people, as `pairs.people` in a recipe.")
    ] = "shapes",
    as_json: Json = False,
) -> None:
    from capo.cli.tables import print_json, print_text
    from capo.people.rehearse_study import write_simulated_votes

    files = write_simulated_votes(study, to, raters.split(","), prompts, people)
    if as_json:
        print_json({"files": [str(file) for file in files]})
    else:
        print_text("\n".join(map(str, files)))
