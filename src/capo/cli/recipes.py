"""`capo recipes`: the recipes that come with the package."""

from typing import Annotated

import typer

from capo.cli.app import Section, app

EPILOG = """\b
Examples:
  capo recipes                      list them
  capo recipes show sdxl > my.yaml  start your own recipe from one

\b
Next:
  capo run my.yaml"""

recipes_app = typer.Typer(
    help="List the shipped recipes, or print one.", epilog=EPILOG, invoke_without_command=True
)
app.add_typer(recipes_app, name="recipes", rich_help_panel=Section.PARTS)


@recipes_app.callback()
def recipes(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        from capo.cli.recipe_table import print_recipes
        from capo.recipe import shipped_recipes

        print_recipes(shipped_recipes())


@recipes_app.command("show")
def show_recipe(name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the recipe.")]) -> None:
    """Print a shipped recipe, as a start for your own."""
    from capo.recipe import RecipeError, shipped_recipes

    shipped = shipped_recipes()
    if name not in shipped:
        raise RecipeError(f"no shipped recipe {name!r}; choose from {', '.join(shipped)}")
    typer.echo(shipped[name].read_text(encoding="utf-8"), nl=False)
