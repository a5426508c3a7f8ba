"""Checkpoints hold the whole state, and only intact ones are loaded."""

import errno
import os
import threading
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from capo.engine.ranks import Group
from capo.store import WorkspaceError
from capo.store.manifest import describe
from capo.training import checkpoint
from capo.training.checkpoint import Checkpoints


def checkpoints(artifact, setup, **other):
    reference = {"checkpoint": "base", "weights": setup.policy.reference_digest()}
    return Checkpoints(artifact, setup.trainer, reference | other)


def save(store, step):
    """Save a checkpoint and wait until it is on disk."""
    store.save(step)
    assert step in store.steps()


@pytest.fixture
def writing(monkeypatch):
    """Holds the thread that writes checkpoints, until `go` is set; then it fails if `fails` is set."""
    state = SimpleNamespace(go=threading.Event(), fails=False)
    write = checkpoint.write_tensors

    def held(file, tensors):
        assert state.go.wait(60)
        if state.fails:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(file, tensors)

    monkeypatch.setattr(checkpoint, "write_tensors", held)
    yield state
    state.go.set()


def test_training_continues_while_a_checkpoint_of_its_step_is_written(artifact, setup, writing):
    prepared = setup(ema_decay=0.5)
    prepared.steps(1)
    expected = prepared.everything()
    with checkpoints(artifact, prepared) as store:
        store.save(1)
        prepared.steps(2)
        store.check()
        assert not artifact.has("checkpoints/step-000001")
        writing.go.set()
    assert not all(torch.equal(tensor, expected[name]) for name, tensor in prepared.everything().items())
    assert checkpoints(artifact, prepared).restore() == 1
    assert all(torch.equal(tensor, expected[name]) for name, tensor in prepared.everything().items())


@pytest.mark.parametrize("surfaces", ["check", "save", "end"])
def test_a_failure_to_write_surfaces_and_removes_nothing(artifact, setup, writing, surfaces):
    prepared = setup()
    prepared.steps(1)
    writing.go.set()
    save(checkpoints(artifact, prepared), 1)
    writing.go.clear()
    writing.fails = True
    store = checkpoints(artifact, prepared)

    def fail():
        with store:
            store.save(2)
            store.prune(keep=1, best=lambda step: None)
            writing.go.set()
            if surfaces == "check":
                while True:
                    store.check()
            if surfaces == "save":
                store.save(3)

    with pytest.raises(WorkspaceError, match="no space left"):
        fail()
    assert checkpoints(artifact, prepared).steps() == [1]


def test_older_checkpoints_are_removed_once_the_new_one_is_on_disk(artifact, setup, writing):
    prepared = setup()
    prepared.steps(1)
    writing.go.set()
    with checkpoints(artifact, prepared) as store:
        save(store, 1)
        writing.go.clear()
        store.save(2)
        store.prune(keep=1, best=lambda step: None)
        assert artifact.has("checkpoints/step-000001")
        writing.go.set()
    assert checkpoints(artifact, prepared).steps() == [2]


def test_without_memory_for_a_copy_training_waits_for_the_same_bytes(artifact, setup, monkeypatch):
    prepared = setup(ema_decay=0.5)
    prepared.steps(1)
    store = checkpoints(artifact, prepared)
    save(store, 1)
    monkeypatch.setattr(checkpoint, "free_main_memory", lambda: 0)
    monkeypatch.setattr(store._background, "submit", lambda work: pytest.fail("in the background"))
    said = []
    monkeypatch.setattr(checkpoint, "say", said.append)
    store.save(2)
    store.save(3)
    assert len(said) == 1
    for name in ("policy", "optimizer", "average"):
        files = (artifact.read_bytes(f"checkpoints/step-00000{n}/{name}.safetensors") for n in (1, 2, 3))
        assert len(set(files)) == 1


@pytest.mark.parametrize("kind", [{}, {"ema_decay": 0.5, "lora_dora": True}])
def test_a_restored_run_continues_bit_for_bit(artifact, setup, kind):
    first, second = setup(**kind), setup(**kind)
    first.steps(1, 2)
    save(checkpoints(artifact, first), 2)
    expected = first.steps(3, 4)
    assert checkpoints(artifact, second).restore() == 2
    assert second.steps(3, 4) == expected
    states = []
    for one in (first, second):
        with one.trainer.averaged():
            states.append(one.everything())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("kind", [{"lora_dora": True, "ema_decay": 0.5}, {"adaptation": "full"}])
def test_step_0_is_the_base_model(artifact, setup, kind):
    fresh, used = setup(**kind), setup(**kind)
    used.steps(1, 2)
    checkpoints(artifact, used).load(0)
    assert used.steps(1, 2) == fresh.steps(1, 2)


def test_a_changed_reference_is_never_saved(artifact, setup):
    prepared = setup()
    store = checkpoints(artifact, prepared)
    prepared.steps(1)
    save(store, 1)
    frozen = next(p for p in prepared.trainer.family.denoiser.parameters() if not p.requires_grad)
    frozen.data.flatten()[0] += 1e-3
    with pytest.raises(RuntimeError, match="step 2: the frozen reference has changed"):
        store.save(2)
    assert store.steps() == [1]


def test_without_a_checkpoint_training_starts_at_the_beginning(artifact, setup):
    assert checkpoints(artifact, setup()).restore() == 0


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("policy.safetensors", "flip"),
        ("policy.safetensors", "lose"),
        ("optimizer.safetensors", "cut"),
        ("state.json", "flip"),
        ("state.json", "lose"),
    ],
)
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_loaded(
    artifact, setup, file, damage, monkeypatch
):
    said = []
    monkeypatch.setattr(checkpoint, "say", said.append)
    prepared = setup()
    store = checkpoints(artifact, prepared)
    for step in (1, 2):
        prepared.steps(step)
        save(store, step)
    path = artifact.folder / "checkpoints" / "step-000002" / file
    data = bytearray(path.read_bytes())
    data[0 if file == "state.json" else len(data) // 2] ^= 1
    if damage == "lose":
        path.unlink()
    else:
        path.write_bytes(data if damage == "flip" else data[:-9])
    assert store.restore() == 1
    assert "step-000002" in said[0]
    assert "damaged" in said[0]
    assert store.steps() == [1]


def test_a_damaged_checkpoint_without_an_alternative_is_an_error(artifact, setup):
    """The checkpoint of the best step has none once training has moved past it."""
    prepared = setup()
    prepared.steps(1)
    store = checkpoints(artifact, prepared)
    save(store, 1)
    (artifact.folder / "checkpoints" / "step-000001" / "policy.safetensors").unlink()
    with pytest.raises(WorkspaceError, match=r"policy.safetensors is damaged .* a copy .* with --force"):
        store.load(1)


@pytest.mark.parametrize("field", ["checkpoint", "weights"])
def test_another_reference_is_rejected(artifact, setup, field):
    prepared = setup()
    prepared.steps(1)
    save(checkpoints(artifact, prepared), 1)
    with pytest.raises(WorkspaceError, match="another reference model"):
        checkpoints(artifact, prepared, **{field: "2"}).restore()


def test_weights_of_another_adapter_are_rejected(artifact, setup):
    prepared = setup()
    prepared.steps(1)
    save(checkpoints(artifact, prepared), 1)
    with pytest.raises(ValueError, match="weights of another model"):
        checkpoints(artifact, setup(lora_targets=("to_q",))).restore()


def test_weights_that_are_not_finite_are_rejected_even_with_the_right_digest(artifact, setup):
    prepared = setup()
    prepared.steps(1)
    store = checkpoints(artifact, prepared)
    save(store, 1)
    folder = artifact.folder / "checkpoints" / "step-000001"
    path = folder / "optimizer.safetensors"
    old = describe(path)["blake2b"]
    moments = load_file(path)
    name = next(name for name in moments if name.endswith("/exp_avg"))
    save_file(moments | {name: torch.full_like(moments[name], torch.nan)}, path)
    state = folder / "state.json"
    state.write_text(state.read_text().replace(old, describe(path)["blake2b"]))
    with pytest.raises(ValueError, match="not finite"):
        store.restore()


def test_the_newest_and_the_best_are_kept(artifact, setup):
    prepared = setup()
    prepared.steps(1)
    store = checkpoints(artifact, prepared)
    for step in range(1, 6):
        save(store, step)
    store.prune(keep=3, best={3: 1, 4: 4, 5: 4}.get)
    assert store.steps() == [1, 3, 4, 5], "step 1 was the best by step 3"
    store.prune(keep=2, best=lambda step: 1)
    assert store.steps() == [1, 4, 5]
    store.prune(keep=2, best=lambda step: None)
    assert store.steps() == [4, 5]


def test_only_the_main_process_lists_checkpoints_to_remove(artifact, setup, monkeypatch):
    """It may be removing them at that moment, and a folder that vanishes while it is listed is an error."""
    store = checkpoints(artifact, setup())
    monkeypatch.setattr(Group, "is_main", False)
    monkeypatch.setattr(Checkpoints, "steps", lambda self: pytest.fail("listed"))
    store.prune(keep=1, best=lambda step: None)
    store.forget_after(0)
