"""`capo benchmark`: measure a model on a public benchmark."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from capo.cli.app import Section, app, load
from capo.cli.options import Directory, Force, Json, Overrides, Shard

if TYPE_CHECKING:
    from capo.recipe import Recipe

HELP = """Measure a model, or compare two, on a public benchmark.

Makes the benchmark's images, judges them, and writes scores with intervals, all rows, and a page with the
images behind the verdicts to benchmarks/NAME in the run directory. With --run and no --model, measures
the run's tuned model and its base. Without NAME, lists the benchmarks.

MODEL is a run, a policy folder, a LoRA, a diffusers directory, a Hub id, or a folder of images, also in
the benchmark's official layout. Two models get the same prompts and noise, and are compared by prompt.

Rerun the same command to resume. Sampler and model settings come from RECIPE, the run, or the shipped
recipe of the same architecture."""

EPILOG = """\b
Examples:
  capo benchmark
  capo benchmark geneval --model runs/first --prompts geneval/
  capo benchmark geneval --model me/new --against me/old --prompts geneval/
  capo benchmark geneval --model ./their-images --prompts geneval/
  capo benchmark geneval sdxl --model style.safetensors --prompts geneval/
  capo benchmark shapes --run runs/first
  capo benchmark shapes --model shapes --stage generate --export official"""

Stage = Literal["generate", "judge", "report"]


@app.command(help=HELP, epilog=EPILOG, rich_help_panel=Section.MORE)
def benchmark(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The benchmark.", show_default=False)
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="A YAML file or the name of a shipped recipe, for the model and the sampler.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Model to measure.", show_default=False)
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Model to compare it with.", show_default=False)
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Folder or file with the benchmark's official prompts.", show_default=False
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Use only N prompts. Default: all.", show_default=False),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Images per prompt. Default: the official number.", show_default=False
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="JUDGE",
            help="The judge. Default: the first in the list of `capo benchmark`.",
            show_default=False,
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Setting of the judge, such as its weights. Repeatable.",
            show_default=False,
        ),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="How scores are computed. Default: the official way.", show_default=False
        ),
    ] = None,
    stage: Annotated[
        Stage | None, typer.Option(help="Run one stage only. Default: all.", show_default=False)
    ] = None,
    export: Annotated[
        Literal["official"] | None,
        typer.Option(help="Also write the images in the layout of the authors' scripts.", show_default=False),
    ] = None,
    overrides: Overrides = None,
    directory: Directory = None,
    force: Force = False,
    shard: Shard = None,
    as_json: Json = False,
) -> None:
    from capo.cli.benchmark_table import print_benchmarks

    if name is None:
        print_benchmarks(as_json)
        return
    given: dict[str, Any] = {"model": model, "against": against, "count": count, "images": images}
    given |= {"prompts": None if prompts is None else str(prompts), "judge": judge, "variant": variant}
    given |= {"options": _options(option) if option else None, "export": export}
    loaded, path = _recipe(name, recipe, overrides, directory, given)
    _run(name, loaded, path, stage, force, shard, as_json)


def _recipe(
    name: str,
    recipe: str | None,
    overrides: list[str] | None,
    directory: Path | None,
    given: dict[str, Any],
) -> "tuple[Recipe, Path]":
    """Return the recipe with the benchmark's section, and the run directory."""
    from capo.benchmarks.standalone import standalone_recipe, with_benchmark
    from capo.recipe import RecipeError, override_recipe

    saved = directory is not None and (directory / "recipe.yaml").is_file()
    if recipe is not None or saved:
        loaded, path = load(recipe, overrides, directory)
    elif given["model"] is not None:
        loaded = override_recipe(standalone_recipe(name, given["model"], "--model"), overrides or ())
        path = directory or Path("runs", loaded.name)
    else:
        raise RecipeError("name the model to measure with --model, or an existing run with --run DIR")
    return with_benchmark(loaded, name, given), path


def _options(settings: list[str]) -> dict[str, Any]:
    import yaml

    from capo.recipe import RecipeError
    from capo.recipe.yaml_files import read_yaml

    pairs = [setting.partition("=") for setting in settings]
    if wrong := [
        setting for setting, (key, equals, _) in zip(settings, pairs, strict=True) if not (key and equals)
    ]:
        raise RecipeError(f"--option {wrong[0]}: expected KEY=VALUE")
    try:
        return {key: read_yaml(value) for key, _, value in pairs}
    except yaml.YAMLError as error:
        raise RecipeError(f"--option: not YAML; put the value in quotation marks: {error}") from None


def _run(
    name: str,
    recipe: "Recipe",
    path: Path,
    stage: Stage | None,
    force: bool,
    shard: str | None,
    as_json: bool,
) -> None:
    from capo import pipeline
    from capo.benchmarks.artifacts import PARTS_OF, Part, artifact_name
    from capo.cli.benchmark_table import print_benchmark_run
    from capo.cli.run import run_part_of
    from capo.engine.launch import processes

    parts: tuple[Part, ...] = (
        ("images", "official", "judgments", "results") if stage is None else PARTS_OF[stage]
    )
    within = tuple(artifact_name(name, part) for part in parts)
    if shard is not None:
        run_part_of(recipe, path, "benchmark", within, force, as_json, shard)
        return
    result = pipeline.run(recipe, path, force=force, stage="benchmark", within=within)
    if processes().is_main:
        print_benchmark_run(name, result, as_json)
