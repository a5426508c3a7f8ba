"""`capo check`: what would stop a run, before anything runs."""

from collections import Counter

import typer

from capo.cli.app import Section, app, load
from capo.cli.options import Directory, Json, Overrides, RecipeName

HELP = """Check a run and report all problems at once.

Checks models, rewards, prompts, judge, sizes, packages, disk and launch for every stage that is not up to
date. Makes nothing and loads no weights; reward functions are imported and reward programs started. `capo
run` and the stage commands do the same first. Exit code 1 if anything would stop the run."""

EPILOG = """\b
Examples:
  capo check my.yaml
  capo check my.yaml --set train.optimizer=adamw-8bit
  capo check --run runs/first --json

Next: `capo plan` for hours and memory, `capo rehearse` to try every part."""


@app.command(help=HELP, epilog=EPILOG, rich_help_panel=Section.WHOLE)
def check(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    from dataclasses import asdict

    from capo import pipeline
    from capo.cli.check_table import print_check
    from capo.cli.tables import print_json

    loaded, path = load(recipe, overrides, directory)
    stages, findings = pipeline.check_run(loaded, path)
    counts = Counter(finding.severity for finding in findings)
    if as_json:
        findings_values = [asdict(finding) for finding in findings]
        print_json({"directory": str(path), "stages": stages, "findings": findings_values})
    else:
        print_check(path, stages, findings)
    if counts["error"]:
        raise typer.Exit(1)
