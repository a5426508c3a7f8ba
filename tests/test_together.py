"""Several processes do what one does: real processes, started by torchrun and connected by gloo."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny_rewards
import tiny_training
from capo import pipeline
from capo.recipe import dump_recipe
from capo.store import Run
from capo.training.trainer import Trainer

pytestmark = pytest.mark.timeout(900)  # four processes are started in all

WORKER = Path(__file__).parent / "together.py"
STAGES = ("prompts", "generate", "score", "pair")
KINDS = {
    "ddp": {"per_device_batch_size": 1, "ema_decay": 0.5},
    "fsdp": {"sharding": "fsdp", "gradient_checkpointing": True},
    "full": {"sharding": "fsdp", "adaptation": "full", "learning_rate": 1e-5, "ema_decay": 0.5},
}
UNTRAINED = ("prompts", "samples", "scores/red", "scores/blue", "pairs", "validation", "baseline")
"""The artifacts that do not depend on training."""


def recipe(root, sdxl, train):
    validation = {"validation_prompts": {"source": str(root / "validation.txt")}, "validation_samples": 1}
    given = {"steps": 4, "checkpoint_every": 1, "validate_every": 2, **validation, **train}
    generate = {"shard_prompts": 1}
    evaluate = {
        "prompts": {"source": "shapes:test", "count": 2},
        "samples_per_prompt": 2,
        "judge": "shapes",
        "embedder": str(root / "clip"),
        "null_row": False,
    }
    return tiny_training.recipe(root, sdxl, given, generate=generate, evaluate=evaluate)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, sdxl):
    """A folder with a recipe of every kind, and runs of one process: whole for `ddp`, else trained."""
    root = tmp_path_factory.mktemp("together")
    tiny_rewards.clip(root / "clip")
    recipes = {kind: recipe(root, sdxl, train) for kind, train in KINDS.items()}
    for kind, settings in recipes.items():
        (root / f"{kind}.yaml").write_text(dump_recipe(settings))
    for stage in STAGES:
        pipeline.run(recipes["ddp"], root / "paired", stage=stage)
    for name in ("fsdp-alone", "fsdp-together", "full-alone", "full-together", "ddp-alone"):
        shutil.copytree(root / "paired", root / name)
    for name in ("ddp-poisoned", "full-changing"):
        shutil.copytree(root / "paired", root / name)
    for kind, settings in recipes.items():
        pipeline.run(settings, root / f"{kind}-alone", stage=None if kind == "ddp" else "train")
    return root, recipes


def entry(root, kind, name, stage="train", **more):
    return {"recipe": str(root / f"{kind}.yaml"), "run": str(root / f"{kind}-{name}"), "stage": stage, **more}


def launch(root, *entries):
    """Make the entries in two processes; return the exit code and the messages."""
    (root / "entries.json").write_text(json.dumps(entries))
    paths = [str(WORKER.parent), os.environ.get("PYTHONPATH", "")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with subprocess.Popen(
        [*torchrun, WORKER, root / "entries.json"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        try:
            _, errors = started.communicate(timeout=400)
        finally:
            started.terminate()  # and its child processes
    return started.returncode, errors


@pytest.fixture(scope="module")
def together(alone):
    """The same by two processes; also `ddp` on bad data, `full` stopped, and a run with a killed process."""
    root, recipes = alone
    code, errors = launch(
        root,
        entry(root, "ddp", "together", stage=None),
        entry(root, "fsdp", "together"),
        entry(root, "full", "together"),
        entry(root, "ddp", "poisoned", poison=2),
        entry(root, "full", "changing", stop_before=2),
        entry(root, "ddp", "killed", stage=None, kill=True),
    )
    assert code != 0, errors
    assert Run(root / "full-changing").artifact("train").has("checkpoints/step-000001/state.json"), errors
    return root, recipes


@pytest.fixture(scope="module")
def resumed(together):
    """What was interrupted, resumed: `full` by one process up to step 2, and everything by two to the end."""
    root, recipes = together
    step = Trainer.step

    def interrupted(self, number, *arguments):
        if number == 3:
            raise KeyboardInterrupt
        return step(self, number, *arguments)

    samples = Run(root / "ddp-killed").artifact("samples")
    assert samples.begun()
    assert not samples.done
    kept = {name: (samples.folder / name).stat().st_mtime_ns for name in samples.files()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(recipes["full"], root / "full-changing", stage="train")
    code, errors = launch(root, entry(root, "full", "changing"), entry(root, "ddp", "killed", stage=None))
    assert code == 0, errors[-20000:]
    return root, kept


def within_rounding(key, value):
    """A reward is β times a difference of errors near 1, so its precision is that of float32 at 1."""
    finest = tiny_training.BETA * torch.finfo(torch.float32).eps
    return pytest.approx(value, rel=1e-3, abs=4 * finest if key.startswith("rewards/") else 1e-5)


def assert_same_training(first, second):
    """Assert equal rows, weights and moments within rounding, and an identical reference."""
    train, other = (Run(path).artifact("train") for path in (first, second))
    assert train.files() == other.files()
    for name in ("metrics.jsonl", "validation.jsonl"):
        rows, others = train.read_json_lines(name), other.read_json_lines(name)
        assert [row["step"] for row in rows] == [row["step"] for row in others]
        for row, same in zip(rows, others, strict=True):
            assert row == {key: within_rounding(key, value) for key, value in same.items()}
    for name in train.files():
        if name.endswith(".safetensors"):
            tensors, others = (load_file(path / "train" / name) for path in (first, second))
            assert tensors.keys() == others.keys()
            for key, tensor in tensors.items():
                torch.testing.assert_close(tensor, others[key], rtol=1e-3, atol=1e-5, msg=f"{name} {key}")
    states = [
        json.loads((path / "train" / "checkpoints" / "step-000004" / "state.json").read_text())
        for path in (first, second)
    ]
    assert states[0]["reference"] == states[1]["reference"]


def assert_same_files(first, second, names=UNTRAINED):
    """Assert that artifacts have the same files and summaries, regardless of the process that made them."""
    for name in names:
        manifests = [Run(path).artifact(name).manifest() for path in (first, second)]
        assert manifests[0] == manifests[1], name


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_as_one(together, kind):
    root, _ = together
    assert_same_training(root / f"{kind}-alone", root / f"{kind}-together")
    assert Run(root / f"{kind}-together").artifact("train").done


def test_two_processes_make_a_whole_run_as_one_does(together):
    root, recipes = together
    assert_same_files(root / "ddp-alone", root / "ddp-together")
    assert {status.state for status in pipeline.status(recipes["ddp"], root / "ddp-together")} == {"done"}


def test_bad_data_in_one_process_stops_all(together):
    """All processes report the same error, and the batch changes no weights."""
    root, _ = together
    place = root / "ddp-poisoned"
    first, second = ((place / f"diverged-{rank}.txt").read_text() for rank in (0, 1))
    assert first == second
    artifact = Run(place).artifact("train")
    assert re.match(r"step 2: the loss is not finite, from prompts \w{16}; nothing was updated", first)
    assert [name for name in artifact.files() if name.endswith("state.json")] == [
        "checkpoints/step-000001/state.json"
    ]


def test_a_run_resumes_with_another_number_of_processes(resumed):
    """Two up to step 1, one up to step 2, two to the end."""
    root, _ = resumed
    assert_same_training(root / "full-alone", root / "full-changing")


def test_a_run_with_a_killed_process_resumes_and_keeps_its_shards(resumed):
    root, kept = resumed
    assert_same_files(root / "ddp-alone", root / "ddp-killed")
    assert_same_training(root / "ddp-alone", root / "ddp-killed")
    samples = root / "ddp-killed/samples"
    tables = {name for name, time in kept.items() if name.endswith(".parquet")}
    assert tables, "the process that was killed had finished a shard"
    assert all((samples / name).stat().st_mtime_ns == kept[name] for name in tables)
