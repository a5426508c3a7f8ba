"""`capo calibration`: how much every reward counts in the pairs of a run."""

from dataclasses import asdict

from capo.cli.app import Section, app, load
from capo.cli.options import Directory, Json, Overrides, RecipeName

HELP = """Show how much every reward counts in the pairs of a run.

Needs only the scores of the run. Reports rewards that are underweighted and suggests parameters. With
--set, shows what other settings would do; changes nothing."""

EPILOG = """\b
Examples:
  capo calibration --run runs/first
  capo calibration --run runs/first --set rewards.0.temperature=0.5
  capo calibration --run runs/first --json"""


@app.command(help=HELP, epilog=EPILOG, rich_help_panel=Section.MORE)
def calibration(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    from capo.cli.calibration_table import print_calibration
    from capo.cli.tables import print_json
    from capo.pairing.calibration_report import calibration_report
    from capo.store import Run

    loaded, path = load(recipe, overrides, directory)
    report = calibration_report(loaded, Run(path))
    if as_json:
        print_json(asdict(report))
    else:
        print_calibration(report)
