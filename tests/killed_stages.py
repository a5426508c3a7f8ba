"""Stages of a tiny real run, killed wherever they have changed a file, and resumed.

This is the code of the process that forks; `test_killed.py` calls it there.
"""

import gc
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import torch

import tiny_training
from capo import diffusion, pipeline
from capo.recipe import ModelSection, Recipe
from capo.store import atomic
from capo.store.step import StageName
from capo.training import fine_tune, validation
from forked import ended, fork, import_for

STAGES = get_args(StageName)
LANES = os.cpu_count() or 1
"""Runs at the same time."""
LOAD_FAMILY = diffusion.load_family
LOADING = (diffusion, fine_tune, validation)
"""The modules that load models."""


def contents(run: Path) -> dict[str, bytes]:
    """Return every file of a run, without the timings and without the parts of the page that show them."""
    files = {n: data for n, data in tiny_training.contents(run).items() if not n.endswith("timings.jsonl")}
    if "report/index.html" in files:
        files["report/index.html"] = re.sub(
            rb"<(\w+)[^>]* data-wall-clock>.*?</\1>", b"", files["report/index.html"], flags=re.DOTALL
        )
    if "manifests/report.json" in files:
        files["manifests/report.json"] = re.sub(
            rb'"(bytes|blake2b)": [^,\n]+', b"", files["manifests/report.json"]
        )
    # A kill just after a manifest appeared leaves the record of the files that it lists.
    left_out = (".lock", "replaced/")
    return {
        n: data
        for n, data in files.items()
        if not n.startswith(left_out) and not n.endswith(".written.jsonl")
    }


def recipe(folder: Path, sdxl: Path, **train: Any) -> Recipe:
    """A recipe that gives every stage as little to do as possible; `train` is merged in."""
    return tiny_training.recipe(
        folder,
        sdxl,
        train={
            "steps": 2,
            "checkpoint_every": 1,
            "keep_checkpoints": 1,
            "validate_every": 2,
            "validation_prompts": {"source": "shapes:validation", "count": 1},
            "validation_samples": 1,
            "global_batch_size": 2,
            **train,
        },
        prompts={"source": "shapes:train", "count": 2},
        generate={
            "samples_per_prompt": 3,
            "num_inference_steps": 1,
            "guidance_scale": 0.0,
            "shard_prompts": 1,
        },
        rewards=[
            {"name": "red", "source": "tiny_training:redness"},
            {"name": "blue", "source": "tiny_training:blueness", "use": "evaluate"},
        ],
        evaluate={
            "prompts": {"source": "shapes:test", "count": 2},
            "samples_per_prompt": 1,
            "judge": "shapes",
            "null_row": False,
        },
        # Two shards are those of the evaluation, and one is sampled.
        benchmarks=[{"name": "shapes", "count": 3, "images": 1, "compare": False, "export": "official"}],
    )


def visible(directory: Path) -> dict[Path, object]:
    """Identify the files under `directory`, without unfinished writes: those are undone before all else."""
    while True:
        try:
            return {
                path: path.is_file() and (path.stat().st_ino, path.stat().st_size, path.stat().st_mtime_ns)
                for path in directory.rglob("*")
                if not any(map(atomic.is_temporary, path.relative_to(directory).parts))
            }
        except FileNotFoundError:  # another thread removed it in the meantime
            continue


def snapshots(work: Callable[[], object], directory: Path, folder: Path) -> list[int]:
    """Do `work` in a child process; return the failpoints at which `directory` has other files than before.

    What a kill there would leave is copied to `folder/NUMBER`. A kill at a failpoint in between leaves the
    same files, so that resuming from there does the same.
    """

    def watched() -> None:
        last, count, turn = visible(directory), atomic.failpoint, threading.Lock()

        def failpoint() -> None:
            nonlocal last
            with turn:
                count()
                if (now := visible(directory)) != last:
                    last = now
                    copy_while_stopped(directory, folder / str(atomic._passed))

        atomic.failpoint = failpoint  # of this process alone
        work()

    folder.mkdir(parents=True)
    assert ended(fork(watched)) == 0
    return sorted(int(path.name) for path in folder.iterdir())


COPY = """
kill -STOP "$1"
until grep -q '^State:.T' "/proc/$1/status"; do :; done
cp -a "$2" "$3"
copied=$?
kill -CONT "$1"
exit $copied
"""


def copy_while_stopped(directory: Path, place: Path) -> None:
    """Copy a directory while all threads of this process stand still, as if it were killed."""
    subprocess.run(["sh", "-c", COPY, "sh", str(os.getpid()), directory, place], check=True)


class Stage:
    """One stage of a run, and a run directory in which all earlier stages are done."""

    def __init__(self, settings: Recipe, name: str, before: Path, folder: Path) -> None:
        self.settings, self.name, self.before, self.folder = settings, name, before, folder
        self.after = shutil.copytree(before, folder / "undisturbed")
        self.points = snapshots(lambda: self.run(self.after), self.after, folder / "snapshots")
        self.expected = contents(self.after)

    def run(self, directory: Path) -> None:
        """Run the stage."""
        pipeline.run(self.settings, directory, stage=self.name)

    def kill_and_resume(self, k: int) -> None:
        directory = shutil.copytree(self.before, self.folder / str(k))
        assert ended(fork(lambda: self.run(directory), CAPO_FAILPOINT=str(k))) == -signal.SIGKILL
        self.resume(directory)

    def resume(self, directory: Path) -> None:
        self.run(directory)
        assert contents(directory) == self.expected

    def wrong(self, points: Sequence[int]) -> list[int]:
        """Return those of the failpoints where a kill changes the result."""
        running: dict[int, int] = {}
        codes: dict[int, int] = {}
        for k in points:
            if len(running) == LANES:
                child, status = os.wait()
                codes[running.pop(child)] = status
            running[fork(lambda k=k: self.resume(self.folder / "snapshots" / str(k)))] = k
        codes |= {k: ended(child) for child, k in running.items()}
        return [k for k in points if codes[k]]


stages: dict[str, Stage] = {}
"""All stages of an undisturbed run, by name."""


def make_stages(folder: Path, sdxl: Path) -> None:
    """Make `stages` in this process."""
    torch.set_num_threads(1)
    atomic.flush = lambda path: None
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # it would warn about forks
    settings = recipe(folder, sdxl)
    import_for(lambda: pipeline.run(settings, folder / "whole"), folder / "imported")
    # Loading would take most of the time. Children have their own memory, so this family stays unchanged.
    family = diffusion.load_family(ModelSection(checkpoint=str(sdxl)), torch.device("cpu"))
    family.encode(["a cat"])
    load_families_with(lambda *_: family)
    gc.collect()
    gc.freeze()  # or every child would collect what earlier work left
    before = folder / "nothing"
    before.mkdir()
    for name in STAGES:
        stages[name] = Stage(settings, name, before, folder / name)
        before = stages[name].after
    # Killing one stage at a time suffices: a resumed stage leaves the next one the same bytes.
    assert contents(before) == contents(folder / "whole")


def load_families_with(load: Callable[..., Any]) -> None:
    for module in LOADING:
        setattr(module, "load_family", load)  # noqa: B010


def kill_stage(name: str) -> tuple[int, list[int]]:
    """Return the number of failpoints of a stage, and those where a kill changes the result."""
    stage = stages[name]
    assert ended(fork(lambda: stage.kill_and_resume(stage.points[len(stage.points) // 2]))) == 0
    return len(stage.points), stage.wrong(stage.points)


def kill_late(settings: Recipe, folder: Path) -> list[int]:
    """Kill the training of another recipe late; return the failpoints where that changes the result.

    Every process loads the model for itself.
    """
    load_families_with(LOAD_FAMILY)
    stage = Stage(settings, "train", stages["train"].before, folder)
    late = [k for k in stage.points if k > stage.points[-1] - 24]
    return stage.wrong(late[::3])
