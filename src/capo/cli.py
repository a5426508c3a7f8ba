"""The `capo` command: parse, call, print.

Nothing heavy is imported before a command needs it, so that help and completed runs are quick.
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted (and resumable).
"""

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperGroup

from capo.options import Directory, Force, Json, Overrides, RecipeName

if TYPE_CHECKING:
    from capo.recipe import Recipe

STAGES = {
    "prompts": "Collect the prompts that images are made for.",
    "generate": "Make N samples of every prompt with the base model.",
    "score": "Score every sample with every reward.",
    "pair": "Calibrate the scores and pick chosen and rejected samples.",
    "train": "Fine-tune the model on the pairs.",
    "evaluate": "Compare the tuned model with the base.",
    "report": "Write the page with the results, curves and images.",
}

EPILOG = """\b
Examples:
  capo run shapes                         the embedded recipe: no network, no GPU
  capo run shapes --set train.steps=100   any field of a recipe, changed
  capo run my.yaml --run runs/first       your own recipe, in a directory you name
  capo status --run runs/first            what is done or out of date, and why
  capo recipes show shapes > my.yaml      a recipe to start from

`capo run` goes on where it was stopped: give the same command again."""

RUN_HELP = """Run a recipe: every stage that is not done yet.

Stop it at any time: the same command goes on where it was. Nothing is made twice, and nothing
made from other settings is mixed in: without --force such a run is refused, field by field."""

RUN_EPILOG = """\b
Examples:
  capo run shapes
  capo run shapes --set seed=1 --run runs/second
  capo run shapes --set "train.lora_targets=[to_q, to_v]" --set rewards.0.weight=2
  capo run --run runs/second --json"""

SOUP_EPILOG = """\b
Examples:
  capo soup runs/mps runs/vqa runs/vila --to soups/all
  capo soup runs/mps runs/vqa --to soups/mps-vqa --weights 2,1 --rank 16
  capo soup runs/mps runs/vqa --to soups/front --sweep 5
  capo evaluate my.yaml --policy soups/all --run runs/soup"""

PLAN_EPILOG = """\b
Examples:
  capo plan sdxl                                  the paper's run, on an H100
  capo plan flux --gpu l40s --set train.per_device_batch_size=2
  capo plan sdxl --gpu a100-80gb --utilisation 0.3 --json"""

BENCH_EPILOG = """\b
Examples:
  capo bench train --arch sdxl                 real size, random weights: nothing is downloaded
  capo bench train --arch tiny-sdxl            the same an eighth as wide: for a CPU
  capo bench generate --recipe shapes          a recipe's own model and settings
  capo bench train --arch sd3 --set train.per_device_batch_size=8 --json"""


class Commands(TyperGroup):
    """Turns errors that a user can mend into one clean message and the right exit code."""

    def invoke(self, ctx: Any) -> Any:
        from capo.recipe import RecipeError

        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            command = shlex.join(["capo", *sys.argv[1:]])
            _stop(f"\nInterrupted; what is finished is kept. Resume with: {command}", 130)
        except RecipeError as error:
            _stop(f"Error: {error}", 2)
        except (ValueError, OSError, ImportError, ArithmeticError, RuntimeError) as error:
            if os.environ.get("CAPO_DEBUG") == "1":
                raise
            _stop(f"Error: {error}", 1)


def _group(**settings: Any) -> typer.Typer:
    return typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **settings,
    )


app = _group(
    cls=Commands,
    help="Align a text-to-image diffusion model with several reward models at once.",
    epilog=EPILOG,
)
recipes_app = typer.Typer(help="List the shipped recipes, or show one.", invoke_without_command=True)
shapes_app = _group(help="Build the embedded checkpoints again.")
app.add_typer(recipes_app, name="recipes")
app.add_typer(shapes_app, name="shapes")

Interpolation = Literal["slerp", "linear"]
Angle = Literal["tensor", "global"]


def main() -> None:
    """What the `capo` command calls: SIGTERM stops it like Ctrl-C."""
    signal.signal(signal.SIGTERM, _interrupt)
    app(prog_name="capo")


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from capo import __version__

        typer.echo(__version__)
        raise typer.Exit


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

    loaded, path = _load(recipe, overrides, directory)
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


@app.command(epilog=SOUP_EPILOG)
def soup(
    policies: Annotated[
        list[Path], typer.Argument(metavar="POLICY", help="Policy folders or run directories.")
    ],
    to: Annotated[Path, typer.Option(metavar="DIR", help="The new folder.")],
    interpolation: Annotated[Interpolation, typer.Option(help="Along arcs or straight.")] = "slerp",
    angle: Annotated[Angle, typer.Option(help="Of slerp: one for each tensor or for all.")] = "tensor",
    weights: Annotated[
        str | None,
        typer.Option(metavar="W,W,...", help="How much each policy counts; equally when left out."),
    ] = None,
    sweep: Annotated[
        int | None,
        typer.Option(metavar="N", min=2, help="Soups of all weightings, N from each policy to each other."),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(metavar="R", min=1, help="Of a LoRA soup; exact, the sum of all ranks, when left out."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(metavar="CHECKPOINT", help="What full policies were tuned from, if it was moved."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Merge several policies of one base into one."""
    if as_json:
        os.environ["CAPO_QUIET"] = "1"
    from capo import terminal
    from capo.stages.soup import SoupSettings, soup, soup_front

    settings = SoupSettings(interpolation, angle, rank, base)
    if sweep is None:
        made = [{"folder": str(to), **soup(policies, to, settings, _numbers("--weights", weights))}]
    elif weights is None:
        made = soup_front(policies, to, settings, sweep)
    else:
        raise typer.BadParameter("--sweep chooses the weights; leave out --weights")
    if as_json:
        terminal.print_json({"directory": str(to), "soups": made})
    else:
        terminal.print_soups(to, made)


@app.command()
def status(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Show what of a run is done or out of date, and why."""
    from capo import pipeline, terminal

    loaded, path = _load(recipe, overrides, directory)
    found = pipeline.status(loaded, path)
    if as_json:
        terminal.print_json(terminal.status_values(path, found))
    else:
        terminal.print_status(path, found)


@app.command(epilog=PLAN_EPILOG)
def plan(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    directory: Directory = None,
    gpu: Annotated[
        str, typer.Option(metavar="NAME", help="h100, a100-80gb, rtx4090, …; a wrong name lists them.")
    ] = "h100",
    utilisation: Annotated[
        float, typer.Option(metavar="SHARE", help="Of the GPU's peak, assumed to be reached.")
    ] = 0.4,
    as_json: Json = False,
) -> None:
    """Count what a recipe will cost before it runs: GPU hours by stage, memory by part, disk.

    The model's configuration is enough: no weights are read, and no GPU is needed.
    """
    from capo import terminal
    from capo.plan import plan_run
    from capo.plan.table import print_plan, values

    loaded, _ = _load(recipe, overrides, directory)
    found = plan_run(loaded, gpu, utilisation)
    if as_json:
        terminal.print_json(values(found))
    else:
        print_plan(found)


@app.command(epilog=BENCH_EPILOG)
def bench(
    part: Annotated[str, typer.Argument(metavar="PART", help="train, generate, decode, score or pairs.")],
    architecture: Annotated[
        str | None,
        typer.Option("--arch", metavar="NAME", help="As sdxl or tiny-sd3; else the model of --recipe."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="RECIPE", help="Settings, and the model without --arch; `shapes` by default."),
    ] = None,
    overrides: Overrides = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed repetitions; their median counts.")] = 5,
    as_json: Json = False,
) -> None:
    """Measure seconds, memory and share of the chip's peak of a part of the pipeline."""
    if as_json:
        os.environ["CAPO_QUIET"] = "1"
    from capo import terminal
    from capo.bench import bench as run_bench
    from capo.bench.table import print_table, values

    found = run_bench(part, architecture, recipe, overrides or (), repeats)
    if as_json:
        terminal.print_json(values(found))
    else:
        print_table(found)


@recipes_app.callback()
def recipes(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        from capo import terminal

        terminal.print_recipes()


@recipes_app.command("show")
def show_recipe(name: Annotated[str, typer.Argument(help="Its name.")]) -> None:
    """Print a shipped recipe, comments and all: a start for your own."""
    from capo.recipe import RecipeError, shipped_recipes

    shipped = shipped_recipes()
    if name not in shipped:
        raise RecipeError(f"no shipped recipe {name!r}; there are {', '.join(shipped)}")
    typer.echo(shipped[name].read_text(encoding="utf-8"), nl=False)


@app.command()
def rewards(as_json: Json = False) -> None:
    """List the shipped rewards and how their scores compare."""
    from capo import terminal

    terminal.print_rewards(as_json)


@shapes_app.command("build")
def build_shapes(
    directory: Annotated[Path, typer.Option("--to", metavar="DIR", help="Where the checkpoints go.")],
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    parts: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these parts; all when left out.")
    ] = None,
) -> None:
    """Train the embedded checkpoints again, from drawn scenes alone; a stopped build goes on."""
    from capo.shapes.build import PARTS, build

    build(directory, device, tuple(parts.split(",")) if parts else PARTS)


def _load(name: str | None, overrides: list[str] | None, directory: Path | None) -> "tuple[Recipe, Path]":
    """The recipe and the run directory that the arguments mean together."""
    from capo.recipe import RecipeError, load_recipe

    if name is None:
        if directory is None:
            raise RecipeError("which recipe? Name one (see `capo recipes`), or a run directory with --run")
        if not (directory / "recipe.yaml").is_file():
            raise RecipeError(f"{directory} has no recipe.yaml yet; name the recipe it is to run")
        name = str(directory / "recipe.yaml")
    recipe = load_recipe(name, overrides or ())
    return recipe, directory or Path("runs", recipe.name)


def _numbers(option: str, text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{option}: expected numbers with commas, as 2,1, got {text!r}") from None


def _interrupt(signum: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt


def _stop(message: str, code: int) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)
