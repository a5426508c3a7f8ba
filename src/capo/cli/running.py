"""`capo run`, its stages one by one, and `capo status`."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from capo.cli.app import app, load
from capo.cli.options import Directory, Force, Json, Overrides, RecipeName

STAGES = {
    "prompts": "Collect the prompts that images are made for.",
    "generate": "Make N samples of every prompt with the base model.",
    "score": "Score every sample with every reward.",
    "pair": "Calibrate the scores and pick chosen and rejected samples.",
    "train": "Fine-tune the model on the pairs.",
    "evaluate": "Compare the tuned model with the base.",
    "report": "Write the page with the results, curves and images.",
}

RUN_HELP = """Run a recipe: every stage that is not done yet.

Stop it at any time: the same command goes on where it was. Nothing is made twice, and nothing
made from other settings is mixed in: without --force such a run is refused, field by field."""

RUN_EPILOG = """\b
Examples:
  capo run shapes
  capo run shapes --set seed=1 --run runs/second
  capo run shapes --set "train.lora_targets=[to_q, to_v]" --set rewards.0.weight=2
  capo run --run runs/second --json"""


def _runner(stage: str | None) -> Callable[..., None]:
    """The command that runs one stage, or all of them when None."""

    def command(
        recipe: RecipeName = None,
        overrides: Overrides = None,
        directory: Directory = None,
        force: Force = False,
        as_json: Json = False,
    ) -> None:
        _run(stage, recipe, overrides, directory, force, as_json)

    return command


def _evaluate(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    directory: Directory = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A policy folder, as of a soup, or a run directory; else what this run trained.",
            show_default=False,
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    if policy is not None:
        # As YAML reads it: JSON, whatever characters are in the path.
        overrides = [*(overrides or ()), f"evaluate.policy={json.dumps(str(policy))}"]
    _run("evaluate", recipe, overrides, directory, force, as_json)


def _run(
    stage: str | None,
    recipe: str | None,
    overrides: list[str] | None,
    directory: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    if as_json:
        os.environ["CAPO_QUIET"] = "1"
    from capo import pipeline, terminal
    from capo.processes import processes

    loaded, path = load(recipe, overrides, directory)
    result = pipeline.run(loaded, path, force=force, stage=stage)
    if not processes().leads:
        return
    if as_json:
        terminal.print_json(terminal.result_values(result))
    else:
        terminal.print_result(result, whole=stage is None)


app.command("run", help=RUN_HELP, epilog=RUN_EPILOG)(_runner(None))
for _stage, _help in STAGES.items():
    _needs = "" if _stage == "prompts" else "; the ones before it must be done"
    app.command(_stage, help=f"{_help} Only this stage{_needs}.")(
        _evaluate if _stage == "evaluate" else _runner(_stage)
    )


@app.command()
def status(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Show what of a run is done or out of date, and why."""
    from capo import pipeline, terminal

    loaded, path = load(recipe, overrides, directory)
    found = pipeline.status(loaded, path)
    if as_json:
        terminal.print_json(terminal.status_values(path, found))
    else:
        terminal.print_status(path, found)
