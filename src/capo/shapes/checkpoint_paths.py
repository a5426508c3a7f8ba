"""The base models of the embedded world, for the entry points `capo.checkpoints`."""

from pathlib import Path

CHECKPOINTS = Path(__file__).parent / "checkpoints"


def base() -> str:
    """The directory of `shapes`: a DDPM U-Net in the layout of SDXL."""
    return str(CHECKPOINTS / "base")


def flow() -> str:
    """The directory of `shapes-flow`: a rectified flow in the layout of SD3."""
    return str(CHECKPOINTS / "flow")
