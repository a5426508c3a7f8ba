"""A program for torchrun: all processes together make the runs of a JSON file, one after another.

An entry has a `recipe` (a file), a `run` directory, and a `stage`, or null for a whole run. Optionally it has
a step of training to `poison`, or to `stop_before`, or it kills the last process at a shard of samples.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from capo.engine.ranks import join_processes
from capo.pipeline import run
from capo.recipe import load_recipe
from capo.sampling.sampler import ShardSampler
from capo.training.batches import Batches
from capo.training.guards import TrainingDiverged
from capo.training.trainer import Trainer


class Stopped(Exception):
    """An interruption of all processes."""


def main() -> None:
    torch.set_num_threads(1)
    with join_processes("cpu") as group:
        for entry in json.loads(Path(sys.argv[1]).read_text()):
            if "poison" in entry:
                train_poisoned(entry, group.rank)
            elif "stop_before" in entry:
                stop_before(entry)
            else:
                if entry.get("kill") and group.rank:
                    kill_at_the_first_shard(Path(entry["run"], "samples"))
                make(entry)


def make(entry: dict[str, Any]) -> None:
    run(load_recipe(entry["recipe"]), entry["run"], stage=entry["stage"])


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
        make(entry)
    except TrainingDiverged as error:
        Path(entry["run"], f"diverged-{rank}.txt").write_text(str(error))
    Batches.batch = batch


def stop_before(entry: dict[str, Any]) -> None:
    """Stop the training of all processes before a step."""
    step = Trainer.step

    def stopping(self, number, *arguments):
        if number == entry["stop_before"]:
            raise Stopped
        return step(self, number, *arguments)

    Trainer.step = stopping
    try:
        make(entry)
    except Stopped:
        Trainer.step = step


def kill_at_the_first_shard(samples: Path) -> None:
    """Kill this process, without warning, before it writes a shard and after another one has written some."""

    def killing(self, *arguments):
        while not list(samples.glob("shard-*.parquet")):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)

    ShardSampler._write = killing


if __name__ == "__main__":
    main()
