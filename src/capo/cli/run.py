"""`capo run`, and one command per stage."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from capo.cli.app import Section, app, load
from capo.cli.options import Directory, Force, Json, Overrides, RecipeName, Shard

if TYPE_CHECKING:
    from capo.recipe import Recipe

STAGES = {
    "prompts": "Collect the training prompts.",
    "generate": "Sample N images per prompt with the base model.",
    "score": "Score every sample with every reward.",
    "pair": "Calibrate the scores and choose pairs of samples.",
    "train": "Fine-tune the model on the pairs.",
    "evaluate": "Compare the tuned model with the base, or any two models.",
    "report": "Write the report: results, curves and images.",
}

SHARDED = ("generate", "score", "evaluate")
"""Stages whose artifacts are made in shards."""

RUN_HELP = """Run all stages of a recipe that are not up to date.

Results go to runs/NAME: samples, scores, pairs, the tuned policy in train/best, evaluation results, and
the page report/index.html.

Rerun the same command to resume after an interruption. Nothing is made twice. If settings changed since
an artifact was made, the command stops and lists the changes; --force remakes what depends on them."""

RUN_EPILOG = """\b
Examples:
  capo run shapes
  capo run shapes --set seed=1 --run runs/second
  capo run shapes --set "train.lora_targets=[to_q, to_v]"
  capo run --run runs/second --json
  torchrun --nproc-per-node 8 -m -- capo run my.yaml    on eight GPUs

Next: open the report, or `capo status --run DIR`."""

EVALUATE_HELP = """Compare the tuned model with the base, or any two models.

Both models generate images for the evaluation prompts, and every reward compares them. Without --policy,
evaluates the policy that this run trained. With --policy and --against, the run needs no other stage:
the recipe provides the prompts, the rewards and the sampler.

Writes results.json and the side-by-side page index.html to evaluate/ in the run directory."""

EVALUATE_EPILOG = """\b
Examples:
  capo evaluate my.yaml
  capo evaluate my.yaml --policy soups/all --run runs/soup
  capo evaluate my.yaml --policy runs/b --against runs/a --run runs/b-a
  capo evaluate my.yaml --policy owner/tuned --against ./style.safetensors
  capo evaluate my.yaml --policy ./their-images --against ./our-images"""


def _runner(stage: str | None) -> Callable[..., None]:
    """Create the command that runs one stage, or all stages for None."""

    def command(
        recipe: RecipeName = None,
        overrides: Overrides = None,
        directory: Directory = None,
        force: Force = False,
        as_json: Json = False,
    ) -> None:
        _run(stage, _Target(recipe, overrides, directory), force, as_json)

    def command_in_parts(
        recipe: RecipeName = None,
        overrides: Overrides = None,
        directory: Directory = None,
        force: Force = False,
        shard: Shard = None,
        as_json: Json = False,
    ) -> None:
        _run(stage, _Target(recipe, overrides, directory), force, as_json, shard)

    return command_in_parts if stage in (None, *SHARDED) else command


def _evaluate(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    directory: Directory = None,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Model to evaluate: a run directory, a policy folder, a LoRA file, a diffusers directory, a "
            "Hub id, or a folder of images. Default: the policy this run trained.",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Model to compare with, specified the same way. Default: the recipe's base model.",
            show_default=False,
        ),
    ] = None,
    force: Force = False,
    shard: Shard = None,
    as_json: Json = False,
) -> None:
    overrides = list(overrides or ())
    for side, model in (("policy", policy), ("against", against)):
        if model is not None:
            # Quoted, as a path may look like a number; YAML does not read JSON's escapes of emoji.
            overrides.append(f"evaluate.{side}={json.dumps(model, ensure_ascii=False)}")
    _run("evaluate", _Target(recipe, overrides, directory), force, as_json, shard)


class _Target(NamedTuple):
    """The recipe and the run directory that a command names."""

    recipe: str | None
    overrides: list[str] | None
    directory: Path | None


def _run(stage: str | None, target: _Target, force: bool, as_json: bool, shard: str | None = None) -> None:
    from capo import pipeline
    from capo.cli.run_tables import print_result, result_values
    from capo.cli.tables import print_json
    from capo.engine.launch import processes

    loaded, path = load(*target)
    if shard is not None:
        run_part_of(loaded, path, stage, ("",), force, as_json, shard)
        return
    result = pipeline.run(loaded, path, force=force, stage=stage)
    if not processes().is_main:
        return
    if as_json:
        print_json(result_values(result))
    else:
        print_result(result, whole=stage is None)


def run_part_of(
    recipe: "Recipe",
    path: Path,
    stage: str | None,
    within: tuple[str, ...],
    force: bool,
    as_json: bool,
    shard: str,
) -> None:
    """Make one part of the shards of a stage, or of all for None, and print the outcome."""
    from capo.cli.run_tables import part_values, print_parts
    from capo.cli.tables import print_json
    from capo.engine.part_executor import Part
    from capo.pipeline.parts import run_part
    from capo.recipe import RecipeError

    try:
        part = Part.parse(shard)
    except ValueError as error:
        raise RecipeError(str(error)) from error  # wrong usage
    if force:
        raise RecipeError("--shard: leave out --force; to replace results, run the command without --shard")
    results = run_part(recipe, path, part, stage, within)
    if as_json:
        print_json(part_values(path, results))
    else:
        print_parts(path, results)


app.command("run", help=RUN_HELP, epilog=RUN_EPILOG, rich_help_panel=Section.WHOLE)(_runner(None))
_PARALLEL = (*SHARDED, "train")
for _stage, _help in STAGES.items():
    if _stage == "evaluate":
        _command = app.command(
            _stage, help=EVALUATE_HELP, epilog=EVALUATE_EPILOG, rich_help_panel=Section.STAGES
        )
        _command(_evaluate)
        continue
    _needs = "" if _stage == "prompts" else " The stages before it must be up to date."
    _launch = f"\n  torchrun --nproc-per-node 8 -m -- capo {_stage} my.yaml" if _stage in _PARALLEL else ""
    _command = app.command(
        _stage,
        help=f"{_help}\n\nRuns only this stage.{_needs}",
        epilog=f"\b\nExamples:\n  capo {_stage} my.yaml\n  capo {_stage} --run runs/first{_launch}",
        rich_help_panel=Section.STAGES,
    )
    _command(_runner(_stage))
