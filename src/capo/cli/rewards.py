"""`capo rewards`: what there is, what it does on this machine, and serving it to others."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from capo.cli.app import app, stop
from capo.cli.options import Json

if TYPE_CHECKING:
    from capo.recipe import RewardSection

EPILOG = """\b
Examples:
  capo rewards                              what is shipped, and whether its weights are here
  capo rewards show ocr                     one of them, with its options
  capo rewards check shapes-vqa             scores on sample images, speed, memory, conformance
  capo rewards check my_rewards:warmth      the same of your own function
  capo rewards check mine --recipe my.yaml  as a recipe has it: checkpoint, options, command, url
  capo rewards serve pickscore --host 0.0.0.0 --port 8800"""

rewards_app = typer.Typer(
    help="List reward models, try one, or serve one to other machines.",
    epilog=EPILOG,
    invoke_without_command=True,
)
app.add_typer(rewards_app, name="rewards")

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="A shipped reward, your own as module:function, or one of --recipe.",
    ),
]  # fmt: skip
FromRecipe = Annotated[
    str | None,
    typer.Option("--recipe", metavar="RECIPE", help="Take the reward with all its fields from a recipe."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a field of that recipe. Repeatable."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]

AS_JSON = ("show", "check")
"""Commands that print JSON when asked, before or after their names."""


@rewards_app.callback()
def rewards(ctx: typer.Context, as_json: Json = False) -> None:
    if ctx.invoked_subcommand is None:
        from capo.cli import tables as terminal
        from capo.rewards.describe import list_rewards

        if as_json:
            terminal.print_json({"rewards": list_rewards()})
        else:
            terminal.print_rewards(list_rewards())
    elif as_json:
        if ctx.invoked_subcommand not in AS_JSON:
            raise typer.BadParameter(f"--json: `capo rewards {ctx.invoked_subcommand}` has no JSON to print")
        ctx.default_map = {ctx.invoked_subcommand: {"as_json": True}}


@rewards_app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A shipped or installed reward.")],
    as_json: Json = False,
) -> None:
    """Tell all about a reward, its options too."""
    from capo.cli import tables as terminal
    from capo.rewards.describe import describe_reward

    if as_json:
        terminal.print_json(describe_reward(name))
    else:
        terminal.print_reward(describe_reward(name))


@rewards_app.command()
def check(
    name: Name,
    recipe: FromRecipe = None,
    overrides: Overrides = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Run a reward on sample images: scores, speed, memory, and whether it keeps to what is asked.

    Exit code 1 when it does not.
    """
    if as_json:
        os.environ["CAPO_QUIET"] = "1"
    from capo.cli import tables as terminal
    from capo.engine.device import select_device
    from capo.recipe import EngineSection
    from capo.rewards.checking.trial import try_reward

    found = try_reward(_section(name, recipe, overrides), select_device(EngineSection(device=device)))
    if as_json:
        terminal.print_json(found)
    else:
        terminal.print_trial(found)
    if not found["passed"]:
        raise typer.Exit(1)


@rewards_app.command()
def serve(
    name: Name,
    recipe: FromRecipe = None,
    overrides: Overrides = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. 0.0.0.0: all networks; anyone on them may use it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 8800,
    device: Device = "auto",
    waiting: Annotated[
        int, typer.Option(min=0, help="Batches that may wait for their turn; others are told to retry.")
    ] = 16,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A name by which clients address this machine, if not its own. Repeatable."
        ),
    ] = None,
) -> None:
    """Score for other machines over HTTP. Recipes there set `url: http://HOST:PORT`.

    The reward scores the images of a request in batches of its `batch_size`. Needs the extra `serve`.
    """
    from capo.engine.device import select_device
    from capo.engine.progress import say
    from capo.recipe import EngineSection
    from capo.rewards import load_reward, reward_identity

    try:
        from capo.rewards.transports import server
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        stop(
            "Error: `capo rewards serve` needs the packages of an extra: pip install 'capo-diffusion[serve]'",
            1,
        )

    section = _section(name, recipe, overrides)
    identity = reward_identity(section)
    reward = load_reward(section, select_device(EngineSection(device=device)))
    service = server.RewardService(reward, identity, section.batch_size, waiting, tuple(allow_host or ()))
    with server.listen(host, port) as listening:  # not before it can answer: clients retry until then
        say(f"Serving {section.name} at {server.url_of(listening)}; stop with Ctrl-C")
        try:
            server.build_server(service).run(sockets=[listening])
        except KeyboardInterrupt:
            stop("Stopped.", 130)


def _section(name: str, recipe: str | None, overrides: list[str] | None) -> "RewardSection":
    from capo.recipe import RecipeError, RewardSection, load_recipe

    if recipe is None:
        if overrides:
            raise typer.BadParameter("--set changes a field of a recipe; name one with --recipe")
        try:
            return RewardSection(name=name.rpartition(":")[2], source=name)
        except ValueError:
            raise RecipeError(
                f"{name!r} names no reward: give a shipped one (see `capo rewards`), or your own as "
                "module:function"
            ) from None
    loaded = load_recipe(recipe, overrides or ())
    for section in loaded.rewards:
        if section.name == name:
            return section
    raise RecipeError(f"{recipe} has no reward {name!r}, but {', '.join(r.name for r in loaded.rewards)}")
