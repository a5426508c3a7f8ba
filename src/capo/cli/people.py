"""`capo people`: studies in which people compare images."""

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from capo.cli.app import Section, app, group, load
from capo.cli.options import Directory, Json, Overrides, RecipeName
from capo.cli.serving import AllowHost, Host, Port, run_until_stopped, serve_extra

if TYPE_CHECKING:
    from capo.recipe import Recipe

people_app = group(help="Let people compare images: make a study, collect votes, report.")
app.add_typer(people_app, name="people", rich_help_panel=Section.MORE)

MAKE_HELP = """Make a page on which people compare images of models.

With only --run, the two models of a run's finished evaluation. A, B and C are otherwise a run, a policy
folder, a LoRA, a diffusers directory, a Hub id, or a folder of images; B and every C are compared with A.
They get the same noise, and the prompts of the recipe's evaluation; without a recipe, those of the images.

Publish the folder page/ of the study on any web space, open it from disk, or start `capo people serve`. The
rest of the study stays with you: key.json says which image is whose."""

MAKE_EPILOG = """\b
Examples:
  capo people make --run runs/first --to study
  capo people make --run runs/first --to study --prompts 100 --raters 8 --prompt-following --tie
  capo people make --base ./their-images --tuned ./our-images --to study
  capo people make sdxl --base runs/a --tuned runs/b --more style.safetensors --to study
  capo people make --run runs/first --to study --post https://example.org/votes

\b
Next:
  capo people serve study"""

SERVE_HELP = """Serve the page of a study, and save the votes that come in.

Prints the address for raters, who need nothing else. Votes are saved in votes/served.jsonl of the study as
they are made. Raters can stop and continue at any time, and so can the server: the token in the address stays
the same. Needs `pip install 'capo-diffusion[serve]'`."""

SERVE_EPILOG = """\b
Examples:
  capo people serve study
  capo people serve study --host 0.0.0.0 --port 8900"""

Base = Annotated[
    str | None,
    typer.Option(
        metavar="A",
        help="Model that the others are compared with. Default: of the run's evaluation, or the recipe's.",
        show_default=False,
    ),
]
Tuned = Annotated[
    str | None,
    typer.Option(
        metavar="B",
        help="Model to compare with A. Default: of the run's evaluation, or the trained policy.",
        show_default=False,
    ),
]
More = Annotated[
    list[str] | None,
    typer.Option(metavar="C", help="Another model to compare with A. Repeatable.", show_default=False),
]
Prompts = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Number of prompts, drawn with the seed. Default: 200, or all if there are fewer.",
        show_default=False,
    ),
]
Raters = Annotated[int, typer.Option(metavar="N", min=1, help="Planned number of raters; more may vote.")]
Title = Annotated[str | None, typer.Option(metavar="TEXT", help="Title of the page.", show_default=False)]
Instruction = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="What raters read before the first pair.", show_default=False),
]
Question = Annotated[
    str | None,
    typer.Option(
        "--question",
        metavar="TEXT",
        help="The question about every pair. Default: which image looks better.",
        show_default=False,
    ),
]
Following = Annotated[
    bool, typer.Option("--prompt-following", help="Also ask which image shows better what the text says.")
]
Tie = Annotated[bool, typer.Option("--tie", help="Let raters answer that neither image is better.")]
Catches = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        help="Catch trials: half are pairs repeated with their sides exchanged, half show one image twice. "
        "Default: a tenth of the pairs.",
        show_default=False,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Seed of prompts, sides and order. Default: the recipe's.", show_default=False
    ),
]
Format = Annotated[
    Literal["png", "webp", "jpeg"],
    typer.Option(help="Format of the images; webp and jpeg are smaller, with small losses."),
]
Post = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="Address to which the page sends a rater's votes at the end.", show_default=False
    ),
]


@people_app.command("make", help=MAKE_HELP, epilog=MAKE_EPILOG)
def make(
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder to create.")],
    recipe: RecipeName = None,
    base: Base = None,
    tuned: Tuned = None,
    more: More = None,
    overrides: Overrides = None,
    directory: Directory = None,
    prompts: Prompts = None,
    raters: Raters = 5,
    title: Title = None,
    instruction: Instruction = None,
    question: Question = None,
    prompt_following: Following = False,
    tie: Tie = False,
    catches: Catches = None,
    seed: Seed = None,
    image_format: Format = "png",
    post: Post = None,
    as_json: Json = False,
) -> None:
    from capo.cli.people_tables import print_study, study_values
    from capo.cli.tables import print_json
    from capo.engine.launch import processes
    from capo.people.build_study import PREFERENCE, PROMPT_FOLLOWING, StudySettings
    from capo.people.make_study import StudyRequest, make_study

    options = (("--tuned", tuned), ("--base", base), *(("--more", model) for model in more or ()))
    models = [(option, model) for option, model in options if model is not None]
    loaded, path, named = _recipe(recipe, overrides, directory, models)
    request = StudyRequest(
        recipe=loaded,
        directory=path,
        base=base,
        tuned=tuned,
        more=more or (),
        prompts=prompts,
        own_prompts=named,
        changed=bool(overrides),
    )
    first = PREFERENCE if question is None else PREFERENCE.model_copy(update={"text": question})
    settings = StudySettings(
        title=title or StudySettings.title,
        instruction=instruction,
        questions=(first, PROMPT_FOLLOWING) if prompt_following else (first,),
        tie=tie,
        raters=raters,
        catches=catches,
        seed=loaded.seed if seed is None else seed,
        image_format=image_format,
        post=post,
    )
    study = make_study(to, request, settings)
    if not processes().is_main:
        return
    if as_json:
        print_json(study_values(to, study))
    else:
        print_study(to, study)


def _recipe(
    recipe: str | None, overrides: list[str] | None, directory: Path | None, models: list[tuple[str, str]]
) -> "tuple[Recipe, Path, bool]":
    """Return the recipe, the run directory, and whether the command named the recipe, if only by a run.

    `models` are pairs of an option and the model that it names.
    """
    from capo.evaluation.candidates import find_candidate
    from capo.recipe import override_recipe

    saved = directory is not None and (directory / "recipe.yaml").is_file()
    if recipe is not None or saved or not models:
        return *load(recipe, overrides, directory), True
    if runs := [Path(model) for _, model in models if (Path(model) / "recipe.yaml").is_file()]:
        return load(None, overrides, runs[0])[0], directory or runs[0], True
    # Images need no model; the first model that does determines the sampler.
    option, model = next((named for named in models if find_candidate(*named).existing is None), models[0])
    loaded = override_recipe(_recipe_of(option, model), overrides or ())
    return loaded, directory or Path("runs", loaded.name), False


def _recipe_of(option: str, model: str) -> "Recipe":
    """Return a recipe that samples from the model that an option names; errors name the option."""
    from capo.benchmarks.standalone import standalone_recipe

    try:
        return standalone_recipe("people", model, option)
    except ValueError as error:
        if str(error).startswith(option):
            raise
        missing = "" if Path(model).exists() else f"there is no folder {model!r}, and as a Hub id: "
        raise ValueError(f"{option}: {missing}{error}") from error


@people_app.command("serve", help=SERVE_HELP, epilog=SERVE_EPILOG)
def serve(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="Folder that `capo people make` created.")],
    host: Host = "127.0.0.1",
    port: Port = 8900,
    allow_host: AllowHost = None,
) -> None:
    from capo.cli.tables import print_text
    from capo.people.human_study import check_study_images, read_study
    from capo.people.vote_log import open_vote_log

    with serve_extra("people serve"):
        from capo.people.vote_server import MOST_CONNECTIONS, VoteService
        from capo.rewards.transports.http_serving import listen, url_of

    made = read_study(study)
    check_study_images(study, made)
    with open_vote_log(study, made) as log, listen(host, port) as listening:
        service = VoteService(study, made, log, tuple(allow_host or ()))
        url = url_of(listening).replace("//0.0.0.0:", f"//{socket.gethostname()}:")
        print_text(f"Serving study {made.id}; stop with Ctrl-C. Address for raters: {url}/{service.token}/")
        run_until_stopped(service.app, listening, MOST_CONNECTIONS)
