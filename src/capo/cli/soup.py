"""`capo soup`: merge policies."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from capo.cli.app import Section, app
from capo.cli.options import Json

HELP = """Merge several policies of one base model into one.

Every POLICY is a run directory or a policy folder. The result is a new policy folder that `capo evaluate`,
diffusers and further runs can load. The inputs stay unchanged."""

EPILOG = """\b
Examples:
  capo soup runs/mps runs/vqa runs/vila --to soups/all
  capo soup runs/mps runs/vqa --to soups/two-to-one --weights 2,1
  capo soup runs/mps runs/vqa --to soups/front --sweep 5

\b
Next:
  capo evaluate my.yaml --policy soups/all --run runs/soup"""

Interpolation = Literal["slerp", "linear"]
Angle = Literal["tensor", "global"]


@app.command(help=HELP, epilog=EPILOG, rich_help_panel=Section.MORE)
def soup(
    policies: Annotated[
        list[Path], typer.Argument(metavar="POLICY", help="Run directories or policy folders.")
    ],
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder to create.")],
    interpolation: Annotated[
        Interpolation, typer.Option(help="Spherical or linear interpolation of the task vectors.")
    ] = "slerp",
    angle: Annotated[
        Angle, typer.Option(help="For slerp: one angle per tensor, or one for all tensors.")
    ] = "tensor",
    weights: Annotated[
        str | None,
        typer.Option(metavar="W,W,...", help="Weights of the policies. Default: equal.", show_default=False),
    ] = None,
    sweep: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            help="Make soups on a grid of weights, with N points between every two policies.",
            show_default=False,
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            metavar="R",
            min=1,
            help="Rank of the merged LoRA. Default: the sum of all ranks, which is exact.",
            show_default=False,
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="Current location of the policies' base model, if it has moved.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    from capo.cli.soup_table import print_soups
    from capo.cli.tables import print_json
    from capo.soups.merge import SoupSettings, soup, soup_front

    settings = SoupSettings(interpolation, angle, rank, base)
    if sweep is None:
        soups = [{"folder": str(to), **soup(policies, to, settings, _numbers("--weights", weights))}]
    elif weights is None:
        soups = soup_front(policies, to, settings, sweep)
    else:
        raise typer.BadParameter("--sweep chooses the weights itself; leave out --weights")
    if as_json:
        print_json({"directory": str(to), "soups": soups})
    else:
        print_soups(to, soups)


def _numbers(option: str, text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{option}: expected numbers separated by commas, for example 2,1; got {text!r}"
        ) from None
