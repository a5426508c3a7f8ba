"""`capo rewards`: list, describe, check and serve reward models."""

from typing import TYPE_CHECKING, Annotated

import typer

from capo.cli.app import Section, app
from capo.cli.options import Json
from capo.cli.serving import AllowHost, Host, Port, run_until_stopped, serve_extra

if TYPE_CHECKING:
    from capo.recipe import RewardSection

EPILOG = """\b
Examples:
  capo rewards                              list all rewards
  capo rewards show ocr                     describe one, with its options
  capo rewards check shapes-vqa             try one on sample images
  capo rewards check my_rewards:warmth      try your own function
  capo rewards check mine --recipe my.yaml  try one as a recipe configures it
  capo rewards serve pickscore              serve one over HTTP"""

CHECK_HELP = """Try a reward on sample images.

Prints scores, speed, memory and conformance: one finite number per image, the same in any batch.
Exit code 1 if a check fails."""

SERVE_HELP = """Serve a reward to other machines over HTTP.

Recipes on the other machines set `url: http://HOST:PORT` for this reward. Anyone who can reach the port
can use it: the server has no authentication. Needs `pip install 'capo-diffusion[serve]'`."""

SERVE_EPILOG = """\b
Examples:
  capo rewards serve pickscore
  capo rewards serve pickscore --host 0.0.0.0 --port 8800
  capo rewards serve mine --recipe my.yaml --device cuda:1"""

rewards_app = typer.Typer(
    help="List reward models, describe one, try one, or serve one.",
    epilog=EPILOG,
    invoke_without_command=True,
)
app.add_typer(rewards_app, name="rewards", rich_help_panel=Section.PARTS)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A shipped reward, your own function as module:function, or a reward of --recipe.",
    ),
]  # fmt: skip
FromRecipe = Annotated[
    str | None,
    typer.Option("--recipe", metavar="RECIPE", help="Use the settings of this recipe's reward."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a field of --recipe. Repeatable."),
]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps.")]

AS_JSON = ("show", "check")
"""Commands with JSON output; --json may come before or after their names."""


@rewards_app.callback()
def rewards(ctx: typer.Context, as_json: Json = False) -> None:
    if ctx.invoked_subcommand is None:
        from capo.cli.reward_tables import print_rewards
        from capo.cli.tables import print_json
        from capo.rewards.describe import list_rewards

        if as_json:
            print_json({"rewards": list_rewards()})
        else:
            print_rewards(list_rewards())
    elif as_json:
        if ctx.invoked_subcommand not in AS_JSON:
            raise typer.BadParameter(f"--json: `capo rewards {ctx.invoked_subcommand}` has no JSON output")
        ctx.default_map = {ctx.invoked_subcommand: {"as_json": True}}


@rewards_app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A shipped or installed reward.")],
    as_json: Json = False,
) -> None:
    """Describe a reward: scale, license, weights, options."""
    from capo.cli.reward_tables import print_reward
    from capo.cli.tables import print_json
    from capo.rewards.describe import describe_reward

    if as_json:
        print_json(describe_reward(name))
    else:
        print_reward(describe_reward(name))


@rewards_app.command(help=CHECK_HELP)
def check(
    name: Name,
    recipe: FromRecipe = None,
    overrides: Overrides = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    from capo.cli.reward_tables import print_trial
    from capo.cli.tables import print_json
    from capo.engine.device import select_device
    from capo.recipe import EngineSection
    from capo.rewards.checking.trial import try_reward

    trial = try_reward(_section(name, recipe, overrides), select_device(EngineSection(device=device)))
    if as_json:
        print_json(trial)
    else:
        print_trial(trial)
    if not trial["passed"]:
        raise typer.Exit(1)


@rewards_app.command(help=SERVE_HELP, epilog=SERVE_EPILOG)
def serve(
    name: Name,
    recipe: FromRecipe = None,
    overrides: Overrides = None,
    host: Host = "127.0.0.1",
    port: Port = 8800,
    device: Device = "auto",
    waiting: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Batches that may queue; beyond that clients must retry later."
        ),
    ] = 16,
    allow_host: AllowHost = None,
) -> None:
    from capo.engine.device import select_device
    from capo.engine.progress import say
    from capo.recipe import EngineSection
    from capo.rewards import load_reward, reward_identity

    with serve_extra("rewards serve"):
        from capo.rewards.transports.http_serving import listen, url_of
        from capo.rewards.transports.server import RewardService

    section = _section(name, recipe, overrides)
    identity = reward_identity(section)
    reward = load_reward(section, select_device(EngineSection(device=device)))
    service = RewardService(reward, identity, section.batch_size, waiting, tuple(allow_host or ()))
    with listen(host, port) as listening:  # only now: clients retry until the server can answer
        say(f"Serving {section.name} at {url_of(listening)}; stop with Ctrl-C")
        run_until_stopped(service.app, listening)


def _section(name: str, recipe: str | None, overrides: list[str] | None) -> "RewardSection":
    from capo.recipe import RecipeError, RewardSection, load_recipe

    if recipe is None:
        if overrides:
            raise typer.BadParameter("--set changes a field of a recipe; name the recipe with --recipe")
        try:
            return RewardSection(name=name.rpartition(":")[2], source=name)
        except ValueError:
            raise RecipeError(
                f"{name!r} is not a reward: name a shipped one (`capo rewards` lists them), or your own "
                "function as module:function"
            ) from None
    loaded = load_recipe(recipe, overrides or ())
    for section in loaded.rewards:
        if section.name == name:
            return section
    raise RecipeError(f"{recipe} has no reward {name!r}; it has {', '.join(r.name for r in loaded.rewards)}")
