"""Several processes train like one: real processes, started by torchrun and connected by gloo."""

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

import tiny_training
from capo import pipeline
from capo.recipe import dump_recipe
from capo.store import Run
from capo.training.trainer import Trainer

pytestmark = pytest.mark.timeout(900)  # five processes are started in all

WORKER = Path(__file__).parent / "together.py"
STAGES = ("prompts", "generate", "score", "pair")
KINDS = {
    "ddp": {"per_device_batch_size": 1, "ema_decay": 0.5},
    "fsdp": {"sharding": "fsdp", "gradient_checkpointing": True},
    "full": {"sharding": "fsdp", "adaptation": "full", "learning_rate": 1e-5, "ema_decay": 0.5},
}


@pytest.fixture(scope="module")
def paired(tmp_path_factory, sdxl):
    """A folder with a recipe of every kind, and copies of a run with everything up to the pairs."""
    root = tmp_path_factory.mktemp("together")
    recipes = {}
    for kind, train in KINDS.items():
        validation = {"validation_prompts": {"source": str(root / "validation.txt")}, "validation_samples": 1}
        given = {"steps": 4, "checkpoint_every": 1, "validate_every": 2, **validation, **train}
        recipes[kind] = tiny_training.recipe(root, sdxl, given)
        (root / f"{kind}.yaml").write_text(dump_recipe(recipes[kind]))
    for stage in STAGES:
        pipeline.run(recipes["ddp"], root / "run", stage=stage)
    for kind in KINDS:
        for name in ("alone", "together"):
            shutil.copytree(root / "run", root / f"{kind}-{name}")
    for name in ("ddp-poisoned", "full-changing"):
        shutil.copytree(root / "run", root / name)
    return root, recipes


def entry(root, kind, name, **more):
    return {"recipe": str(root / f"{kind}.yaml"), "run": str(root / f"{kind}-{name}"), **more}


def launch(root, *entries):
    """Train the entries in two processes."""
    (root / "entries.json").write_text(json.dumps(entries))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    with subprocess.Popen(
        [*torchrun, WORKER, root / "entries.json"],
        env=os.environ | {"PYTHONPATH": str(WORKER.parent), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        try:
            _, errors = started.communicate(timeout=400)
        finally:
            started.terminate()  # and its child processes
    assert started.returncode == 0, errors[-20000:]


@pytest.fixture(scope="module")
def trained(paired):
    """Every kind trained by one and by two processes; also `ddp` on bad data, and `full` interrupted."""
    root, recipes = paired
    for kind in KINDS:
        pipeline.run(recipes[kind], root / f"{kind}-alone", stage="train")
    whole = [entry(root, kind, "together") for kind in KINDS]
    bad = entry(root, "ddp", "poisoned", poison=2)
    launch(root, *whole, bad, entry(root, "full", "changing", stop_before=2))
    return paired


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


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_as_one(trained, kind):
    root, _ = trained
    assert_same_training(root / f"{kind}-alone", root / f"{kind}-together")
    assert Run(root / f"{kind}-together").artifact("train").done


def test_bad_data_in_one_process_stops_all(trained):
    """All processes report the same error, and the batch changes no weights."""
    root, _ = trained
    place = root / "ddp-poisoned"
    first, second = ((place / f"diverged-{rank}.txt").read_text() for rank in (0, 1))
    assert first == second
    artifact = Run(place).artifact("train")
    assert re.match(r"step 2: the loss is not finite, from prompts \w{16}; nothing was updated", first)
    assert [name for name in artifact.files() if name.endswith("state.json")] == [
        "checkpoints/step-000001/state.json"
    ]


def test_a_run_resumes_with_another_number_of_processes(trained, monkeypatch):
    """Two up to step 1, one up to step 2, two to the end."""
    root, recipes = trained
    place = root / "full-changing"
    assert Run(place).artifact("train").has("checkpoints/step-000001/state.json")
    step = Trainer.step

    def interrupted(self, number, *arguments):
        if number == 3:
            raise KeyboardInterrupt
        return step(self, number, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(recipes["full"], place, stage="train")
    launch(root, entry(root, "full", "changing"))
    assert_same_training(root / "full-alone", place)
