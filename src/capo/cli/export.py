"""`capo export`: policies as files for other programs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from capo.cli.app import Section, app

HELP = """Write a policy as a whole model or a LoRA for ComfyUI.

POLICY is a run directory or a policy folder. A whole model has the LoRA merged into the base model, as well
as the LoRAs of the recipe's `model.loras`. Weights are saved in the recipe's `model.dtype`."""

EPILOG = """\b
Examples:
  capo export runs/sdxl --to aligned-sdxl
  capo export runs/sdxl --to aligned-sdxl.safetensors --layout single-file
  capo export soups/all --to aligned-lora.safetensors --layout kohya"""


@app.command(help=HELP, epilog=EPILOG, rich_help_panel=Section.MORE)
def export(
    policy: Annotated[Path, typer.Argument(metavar="POLICY", help="Run directory or policy folder.")],
    to: Annotated[Path, typer.Option(metavar="PATH", help="Folder or file to create.")],
    layout: Annotated[
        Literal["diffusers", "single-file", "kohya"],
        typer.Option(
            help="A diffusers folder, one file in the original layout (SD 1.x, SDXL), or the LoRA alone."
        ),
    ] = "diffusers",
    base: Annotated[
        str | None,
        typer.Option(metavar="CHECKPOINT", help="Base model, if it has moved.", show_default=False),
    ] = None,
) -> None:
    from capo.cli.tables import print_text
    from capo.diffusion.exported_policy import export_policy
    from capo.pretrained.model_loading import quiet

    with quiet():
        export_policy(policy, to, layout, base)
    print_text(f"Wrote {to}")
