"""Parts of a stage, made at the same time by processes; for the process that forks them."""

import os
from pathlib import Path

import torch

from capo.diffusion import load_family
from capo.engine.part_executor import Part
from capo.pipeline.parts import run_part
from capo.recipe import Recipe
from capo.store import Run
from forked import ended, fork


def both_parts(settings: Recipe, folder: Path, stage: str | None) -> None:
    """Make both parts of a stage, or of all stages, at once."""
    torch.set_num_threads(1)
    load_family(settings.model, torch.device("cpu"))  # here, so that no child has to import modules
    children = [fork(lambda n=n: run_part(settings, folder, Part(n, 2), stage)) for n in range(2)]
    assert [ended(child) for child in children] == [0, 0]


def end_within_a_share(folder: Path) -> None:
    """End this process without notice while it shares a run directory."""
    with Run.share(folder):
        os._exit(0)
