"""The command itself: its groups, its errors and what its commands share."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from capo.recipe import Recipe

EPILOG = """\b
Examples:
  capo run shapes                         the embedded recipe: no network, no GPU
  capo run shapes --set train.steps=100   any field of a recipe, changed
  capo run my.yaml --run runs/first       your own recipe, in a directory you name
  capo status --run runs/first            what is done or out of date, and why
  capo recipes show shapes > my.yaml      a recipe to start from

`capo run` goes on where it was stopped: give the same command again."""


class Commands(TyperGroup):
    """Turns errors that a user can mend into one clean message and the right exit code."""

    def invoke(self, ctx: Any) -> Any:
        from capo.recipe import RecipeError

        try:
            try:
                return super().invoke(ctx)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()  # what it fails with is told here, not while Python ends
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            _interrupted()
        except RecipeError as error:
            stop(f"Error: {error}", 2)
        except (ValueError, OSError, ImportError, ArithmeticError, RuntimeError) as error:
            if os.environ.get("CAPO_DEBUG") == "1":
                raise
            stop(f"Error: {error}", 1)


def _interrupted() -> NoReturn:
    """Leave; of several processes one says how to go on."""
    from capo.engine.launch import resume_command

    if "WORLD_SIZE" in os.environ and os.environ.get("RANK") != "0":
        raise typer.Exit(130)
    stop(f"\nInterrupted; what is finished is kept. Resume with: {resume_command(sys.argv[1:])}", 130)


def group(**settings: Any) -> typer.Typer:
    """A command with commands of its own, as all of ours look."""
    return typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **settings,
    )


app = group(
    cls=Commands,
    help="Align a text-to-image diffusion model with several reward models at once.",
    epilog=EPILOG,
)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from capo import __version__

        typer.echo(__version__)
        raise typer.Exit


def load(name: str | None, overrides: list[str] | None, directory: Path | None) -> "tuple[Recipe, Path]":
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


def stop(message: str, code: int) -> NoReturn:
    """Leave with a message for people and an exit code for machines."""
    typer.echo(message, err=True)
    raise typer.Exit(code)
