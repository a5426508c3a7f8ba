"""A run that is killed at any instant of any stage and resumed ends with the bytes of an undisturbed run."""

import gc
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import get_args

import pytest
import torch

import tiny_training
from capo import diffusion, pipeline
from capo.recipe import ModelSection
from capo.store import Run, atomic
from capo.store.step import StageName
from capo.training import fine_tune, validation
from forked import ended, fork

STAGES = get_args(StageName)
LANES = os.cpu_count() or 1
"""Runs at the same time."""
LOAD_FAMILY = diffusion.load_family
"""The real function, which most tests here replace."""


def contents(run):
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


# Writing.


def make_everything(path):
    """Use every kind of writing in one run, which can be resumed after a crash anywhere."""
    with Run.open(path) as run:
        run.write_text("recipe.yaml", "name: x\n")
        samples, train = run.artifact("samples"), run.artifact("train")
        if not samples.done or samples.begun() != {"seed": 1}:
            samples.begin({"seed": 1}, force=True)
            for shard in range(2):
                if not samples.has(f"shard-{shard}"):
                    samples.write_bytes(f"shard-{shard}", bytes([shard]) * 10)
            samples.commit({"shards": 2})
        if not train.done or train.begun() != {"@samples": samples.digest}:
            train.begin({"@samples": samples.digest}, force=True)
            for step in range(2):
                with train.write_directory("best") as folder:
                    (folder / "weights").write_text(str(step))
                log = train.read_json_lines("log.jsonl") if train.has("log.jsonl") else []
                write = train.append_json_lines if log else train.write_json_lines
                if len(log) == step:
                    write("log.jsonl", [{"step": step}])
            train.write_json("state.json", {})
            train.remove("state.json")
            train.commit()
        run.record_timing("train", seconds=1.0)


def make_something_else(path):
    """Make the same artifacts from other settings: one done, one partial."""
    with Run.open(path) as run:
        for name in ("samples", "train"):
            run.artifact(name).begin({"seed": 0})
            run.artifact(name).write_bytes("folder/old", b"old")
        run.artifact("samples").commit()


@pytest.mark.parametrize("before", [lambda path: None, make_something_else], ids=["new", "stale"])
def test_every_kill_while_writing_leaves_old_or_new_files(tmp_path, before):
    """As below, with artifacts of a few bytes that are also removed, replaced and remade.

    The old files are kept, whenever the kill comes.
    """

    def attempt(path, **environment):
        return ended(fork(lambda: make_everything(path), **environment))

    before(tmp_path / "whole")
    assert attempt(tmp_path / "whole", CAPO_FAILPOINT_COUNT=str(tmp_path / "count")) == 0
    expected = contents(tmp_path / "whole")
    old = [] if before is not make_something_else else [b"old"] * 2
    for k in range(1, int((tmp_path / "count").read_text()) + 1):
        before(tmp_path / str(k))
        assert attempt(tmp_path / str(k), CAPO_FAILPOINT=str(k)) == -signal.SIGKILL, k
        assert attempt(tmp_path / str(k)) == 0, k
        assert contents(tmp_path / str(k)) == expected, k
        kept = [path.read_bytes() for path in (tmp_path / str(k)).glob("replaced/*/*/folder/old")]
        assert kept == old, k


# A whole recipe.


def recipe(folder, sdxl, **train):
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


def visible(directory):
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


def snapshots(work, directory, folder):
    """Do `work` in a child process; return the failpoints at which `directory` has other files than before.

    What a kill there would leave is copied to `folder/NUMBER`. A kill at a failpoint in between leaves the
    same files, so that resuming from there does the same.
    """

    def watched():
        last, count, turn = visible(directory), atomic.failpoint, threading.Lock()

        def failpoint():
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


def copy_while_stopped(directory, place):
    """Copy a directory while all threads of this process stand still, as if it were killed."""
    process = os.getpid()

    def copy():
        os.kill(process, signal.SIGSTOP)
        while Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "T":
            time.sleep(0.001)
        try:
            shutil.copytree(directory, place)
        finally:
            os.kill(process, signal.SIGCONT)

    assert ended(fork(copy)) == 0


class Stage:
    """One stage of a run, and a run directory in which all earlier stages are done."""

    def __init__(self, settings, name, before, folder):
        self.settings, self.name, self.before, self.folder = settings, name, before, folder
        self.after = shutil.copytree(before, folder / "undisturbed")
        self.points = snapshots(lambda: self.run(self.after), self.after, folder / "snapshots")
        self.expected = contents(self.after)

    def run(self, directory):
        """Run the stage."""
        pipeline.run(self.settings, directory, stage=self.name)

    def kill_and_resume(self, k):
        directory = shutil.copytree(self.before, self.folder / str(k))
        assert ended(fork(lambda: self.run(directory), CAPO_FAILPOINT=str(k))) == -signal.SIGKILL
        self.resume(directory)

    def resume(self, directory):
        self.run(directory)
        assert contents(directory) == self.expected

    def wrong(self, points):
        """Return those of the failpoints where a kill changes the result."""
        running, codes = {}, {}
        for k in points:
            if len(running) == LANES:
                child, status = os.wait()
                codes[running.pop(child)] = status
            running[fork(lambda k=k: self.resume(self.folder / "snapshots" / str(k)))] = k
        codes |= {k: ended(child) for child, k in running.items()}
        return [k for k in points if codes[k]]


@pytest.fixture(scope="module")
def stages(tmp_path_factory, sdxl):
    """All stages of an undisturbed run, by name."""
    folder = tmp_path_factory.mktemp("killed")
    settings = recipe(folder, sdxl)
    pipeline.run(settings, folder / "whole")  # here, so that no child has to import modules
    with pytest.MonkeyPatch.context() as patch:
        _make_forks_cheap(patch, sdxl)
        found, before = {}, folder / "nothing"
        before.mkdir()
        for name in STAGES:
            found[name] = Stage(settings, name, before, folder / name)
            before = found[name].after
        # Killing one stage at a time suffices: a resumed stage leaves the next one the same bytes.
        assert contents(before) == contents(folder / "whole")
        yield found


def _make_forks_cheap(patch, sdxl):
    patch.setenv("TOKENIZERS_PARALLELISM", "false")  # it would warn about forks
    # Loading would take most of the time. Children have their own memory, so this family stays unchanged.
    family = diffusion.load_family(ModelSection(checkpoint=str(sdxl)), torch.device("cpu"))
    family.encode(["a cat"])
    for module in (diffusion, fine_tune, validation):
        patch.setattr(module, "load_family", lambda *_: family)
    gc.collect()
    gc.freeze()  # or every child would collect what earlier tests left


@pytest.mark.parametrize("name", STAGES)
def test_a_run_killed_at_any_failpoint_resumes_to_the_same_bytes(stages, name, capsys):
    stage = stages[name]
    assert ended(fork(lambda: stage.kill_and_resume(stage.points[len(stage.points) // 2]))) == 0
    wrong = stage.wrong(stage.points)
    with capsys.disabled():
        print(f"\n{name}: resumed from {len(stage.points)} failpoints, {len(wrong)} mismatches", end=" ")
    assert not wrong


def test_full_fine_tuning_killed_late_resumes_to_the_same_bytes(stages, sdxl, tmp_path, monkeypatch):
    """With validation, an average, and a model that every process loads for itself.

    A process that resumes after the last validation encodes no prompt before it saves the policy.
    """
    for module in (diffusion, fine_tune, validation):
        monkeypatch.setattr(module, "load_family", LOAD_FAMILY)
    validated = {"validation_prompts": {"source": "shapes:validation", "count": 2}}
    settings = recipe(tmp_path, sdxl, adaptation="full", learning_rate=1e-4, ema_decay=0.5, **validated)
    stage = Stage(settings, "train", stages["train"].before, tmp_path / "full")
    late = [k for k in stage.points if k > stage.points[-1] - 24]
    assert stage.wrong(late[::3]) == []
