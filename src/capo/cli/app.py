"""The command group: help layout, error handling, and helpers that commands share."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from capo.recipe import Recipe

HELP = """Align a text-to-image diffusion model with several reward models at once.

A recipe is a YAML file with the model, prompts, rewards and training settings. `capo run RECIPE`
generates images, scores them, trains on pairs of good and bad images, evaluates the result and writes
a report."""

EPILOG = """\b
Examples:
  capo run shapes                        try it: no download, no GPU, minutes
  capo run shapes --set train.steps=20   change any field of the recipe
  capo recipes show sdxl > my.yaml       start your own recipe
  capo plan my.yaml                      GPU hours, memory and disk it needs
  capo run my.yaml --run runs/first      run it in a directory you name
  capo status --run runs/first           see what is done and what is stale

To resume an interrupted run, rerun the same command."""


OUT_OF_MEMORY = (
    "main memory ran out; give the command more of it, or lower batch sizes, and rerun it: finished work is "
    "kept (CAPO_DEBUG=1 shows where it ran out)"
)


class Section:
    """Headings under which `capo --help` lists commands."""

    WHOLE = "Run a recipe"
    STAGES = "Run one stage"
    MORE = "Compare, merge, estimate"
    PARTS = "Rewards, images, recipes"


class Commands(TyperGroup):
    """Lists commands by section; turns expected errors into one message and the right exit code."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        width = formatter.width - max(map(len, self.commands)) - 6
        for name, command in self.commands.items():
            heading = getattr(command, "rich_help_panel", None)
            entry = (name, command.get_short_help_str(width))
            sections.setdefault(heading if isinstance(heading, str) else "Commands", []).append(entry)
        for heading, entries in sections.items():
            with formatter.section(heading):
                formatter.write_dl(entries)

    def invoke(self, ctx: Any) -> Any:
        from capo.recipe import RecipeError

        try:
            try:
                return super().invoke(ctx)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()  # a write error surfaces here and not while Python exits
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
        except MemoryError:
            if os.environ.get("CAPO_DEBUG") == "1":
                raise
            stop(f"Error: {OUT_OF_MEMORY}", 1)


def _interrupted() -> NoReturn:
    """Exit with 130; in a launch, only the main process prints how to resume."""
    from capo.engine.launch import resume_command

    if "WORLD_SIZE" in os.environ and os.environ.get("RANK") != "0":
        raise typer.Exit(130)
    stop(f"\nInterrupted. Finished work is saved. To resume: {resume_command(sys.argv[1:])}", 130)


def group(**settings: Any) -> typer.Typer:
    """Create a command with subcommands, in the style that all of ours share."""
    return typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **settings,
    )


app = group(cls=Commands, help=HELP, epilog=EPILOG)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from capo import __version__

        typer.echo(__version__)
        raise typer.Exit


def load(name: str | None, overrides: list[str] | None, directory: Path | None) -> "tuple[Recipe, Path]":
    """Return the recipe and the run directory that the arguments select."""
    from capo.recipe import RecipeError, load_recipe

    if name is None:
        if directory is None:
            raise RecipeError("name a recipe (`capo recipes` lists them), or an existing run with --run DIR")
        if not (directory / "recipe.yaml").is_file():
            raise RecipeError(f"--run: {directory} has no recipe.yaml yet; name the recipe too")
        name = str(directory / "recipe.yaml")
    recipe = load_recipe(name, overrides or ())
    return recipe, directory or Path("runs", recipe.name)


def stop(message: str, code: int) -> NoReturn:
    """Print a message to stderr, as plain text, and exit with `code`."""
    from capo.engine.plain_text import plain_text

    typer.echo(plain_text(message), err=True)
    raise typer.Exit(code)
