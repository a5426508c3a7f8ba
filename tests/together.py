"""A program for torchrun: all processes together train the runs of a JSON file, one after another.

An entry has a `recipe` (a file) and a `run` directory, and optionally a step to `poison`. The last entry may
have a step to `stop_before`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from capo.engine.ranks import join_processes
from capo.pipeline import run
from capo.recipe import load_recipe
from capo.training.batches import Batches
from capo.training.guards import TrainingDiverged
from capo.training.trainer import Trainer


def main() -> None:
    torch.set_num_threads(1)
    with join_processes("cpu") as group:
        for entry in json.loads(Path(sys.argv[1]).read_text()):
            if "stop_before" in entry:
                stop_before(entry["stop_before"])
            if "poison" in entry:
                train_poisoned(entry, group.rank)
            else:
                run(load_recipe(entry["recipe"]), entry["run"], stage="train")


def train_poisoned(entry: dict[str, Any], rank: int) -> None:
    """Corrupt the last pair of a step, which the last process has; save every process's error message."""
    batch = Batches.batch

    def poisoned(self, step):
        made = batch(self, step)
        if step == entry["poison"] and rank == 1:
            made.rejected[-1] = torch.inf
        return made

    Batches.batch = poisoned
    try:
        run(load_recipe(entry["recipe"]), entry["run"], stage="train")
    except TrainingDiverged as error:
        Path(entry["run"], f"diverged-{rank}.txt").write_text(str(error))
    Batches.batch = batch


def stop_before(last: int) -> None:
    """End this process, and thereby the others, when training reaches a step."""
    step = Trainer.step

    def stopping(self, number, *arguments):
        if number == last:
            sys.exit(0)
        return step(self, number, *arguments)

    Trainer.step = stopping


if __name__ == "__main__":
    main()
