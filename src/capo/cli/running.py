"""`capo run`, its stages one by one, and `capo status`."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from capo.cli.app import app, load
from capo.cli.options import Directory, Force, Json, Overrides, RecipeName

if TYPE_CHECKING:
    from capo.pipeline import ArtifactStatus

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

EVALUATE_HELP = """Compare the tuned model with the base, or any two models.

Without --policy, what the run trained, whose training must be done. Nothing of a run is needed to compare
two others: the recipe says the prompts, the rewards and the sampler. Writes results.json and a page,
index.html, into evaluate/ of the run directory."""

EVALUATE_EPILOG = """\b
Examples:
  capo evaluate my.yaml                                    what the run trained against its base
  capo evaluate my.yaml --policy soups/all --run runs/soup
  capo evaluate my.yaml --policy runs/b --against runs/a --run runs/b-against-a
  capo evaluate my.yaml --policy owner/tuned --against ./style.safetensors --run runs/two
  capo evaluate my.yaml --policy ./theirs --against ./ours --run runs/images"""


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
        str | None,
        typer.Option(
            metavar="MODEL",
            help="What is evaluated: a run or policy folder, a LoRA, a diffusers directory or Hub id, or a "
            "folder of images; else what this run trained.",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="What it is compared with, named likewise; else the recipe's own model.",
            show_default=False,
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    overrides = list(overrides or ())
    for side, given in (("policy", policy), ("against", against)):
        if given is not None:
            # Quoted, as a path may look like a number; YAML does not read JSON's escapes of emoji.
            overrides.append(f"evaluate.{side}={json.dumps(given, ensure_ascii=False)}")
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
    from capo import pipeline
    from capo.cli import tables as terminal
    from capo.engine.launch import processes

    loaded, path = load(recipe, overrides, directory)
    result = pipeline.run(loaded, path, force=force, stage=stage)
    if not processes().is_main:
        return
    if as_json:
        terminal.print_json(terminal.result_values(result))
    else:
        terminal.print_result(result, whole=stage is None)


app.command("run", help=RUN_HELP, epilog=RUN_EPILOG)(_runner(None))
for _stage, _help in STAGES.items():
    _needs = "" if _stage == "prompts" else "; the ones before it must be done"
    if _stage == "evaluate":
        app.command(_stage, help=EVALUATE_HELP, epilog=EVALUATE_EPILOG)(_evaluate)
    else:
        app.command(_stage, help=f"{_help} Only this stage{_needs}.")(_runner(_stage))


@app.command()
def status(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Show what of a run is done or out of date, and why; of all in `runs/` when none is named."""
    from capo import pipeline
    from capo.cli import tables as terminal

    if recipe is None and directory is None:
        runs = list(_saved_runs(Path("runs")))
        if as_json:
            terminal.print_json({"runs": [terminal.status_values(*each) for each in runs]})
        else:
            terminal.print_runs(runs)
        return
    loaded, path = load(recipe, overrides, directory)
    found = pipeline.status(loaded, path)
    if as_json:
        terminal.print_json(terminal.status_values(path, found))
    else:
        terminal.print_status(path, found)


def _saved_runs(folder: Path) -> "Iterator[tuple[Path, list[ArtifactStatus] | str]]":
    """The run directories in a folder, each with its states, or why they cannot be told."""
    from capo import pipeline
    from capo.recipe import load_recipe

    for file in sorted(folder.glob("*/recipe.yaml")):
        try:
            yield file.parent, pipeline.status(load_recipe(file), file.parent)
        except (ValueError, OSError, RuntimeError) as error:  # the others are to be seen all the same
            yield file.parent, str(error)
