"""Training on a GPU: equal at first, the same bits every time, and no waiting for the device."""

import pytest
import torch
import torch.distributed as dist

from capo.diffusion.sharding import whole

BFLOAT16 = {"dtype": "bfloat16"}
FULL = {"adaptation": "full", "learning_rate": 1e-5}
KINDS = {
    "lora": {},
    "lora, checkpointing": {"gradient_checkpointing": True},
    "dora": {"lora_dora": True},
    "full": FULL,
    "full, narrow reference": {**FULL, "reference_dtype": "bfloat16"},
    "full, reference elsewhere": {**FULL, "reference_offload": True},
}


@pytest.fixture
def alone(device):
    """A process group of this process alone."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def weights(trainer):
    return {name: whole(tensor).cpu() for name, tensor in trainer.policy.state().items()}


@pytest.mark.parametrize("kind", KINDS)
def test_policy_and_reference_first_agree_bit_for_bit_in_bfloat16(trainer, kind):
    built, batch = trainer(BFLOAT16, beta=5000.0, **KINDS[kind])
    measures = built.measure(batch(1))
    assert not measures["rewards/margins"].any()
    assert not measures["drift"].any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_training_gives_the_same_bits(trainer, kind):
    results = []
    for _ in range(2):
        built, batch = trainer(BFLOAT16, **KINDS[kind])
        rows = [built.step(number, batch(number)).row() for number in (1, 2, 3)]
        results.append((rows, weights(built)))
    (rows, first), (again, second) = results
    assert rows == again
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert rows[2]["drift"] > 0


def test_a_step_never_waits_for_the_gpu(cuda, trainer):
    built, batch = trainer(BFLOAT16, ema_decay=0.9)
    built.step(1, batch(1).pinned()).row()
    prepared = batch(2).pinned()
    torch.cuda.set_sync_debug_mode("error")
    try:
        outcome = built.step(2, prepared)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert outcome.row()["loss"] > 0


def test_pinned_batches_are_page_locked_and_train_alike(cuda, trainer):
    rows = []
    for pinned in (True, False):
        built, batch = trainer()
        batches = [batch(number).pinned() if pinned else batch(number) for number in (1, 2)]
        assert batches[0].chosen.is_pinned() == pinned
        assert all(tensor.is_pinned() == pinned for tensor in batches[0].conditioning.values())
        rows.append([built.step(number, each).row() for number, each in enumerate(batches, 1)])
    assert rows[0] == rows[1]


def test_a_loss_that_is_not_finite_changes_nothing(trainer):
    built, batch = trainer(BFLOAT16)
    built.step(1, batch(1)).row()
    before, bad = weights(built), batch(2)
    bad.chosen[0] = torch.nan
    built.step(2, bad)
    after = weights(built)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_compiled_denoiser_trains_like_a_plain_one(cuda, trainer, kind):
    rows = []
    for model in ({}, {"compile": True}):
        built, batch = trainer(model, **KINDS[kind])
        rows.append([built.step(number, batch(number)).row() for number in (1, 2)])
    plain, compiled = rows
    assert compiled[0]["rewards/margins"] == 0
    assert compiled[1]["loss"] == pytest.approx(plain[1]["loss"], rel=0.02)
    assert compiled[0]["grad_norm"] == pytest.approx(plain[0]["grad_norm"], rel=0.02)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_spread_policy_trains_like_a_whole_one(trainer, kind, alone, monkeypatch, tmp_path):
    """FSDP2 with a single shard: its hooks, gathering and saving, without a second GPU."""
    rows = []
    for spread in (False, True):
        monkeypatch.setattr("capo.diffusion.policy.together", lambda spread=spread: spread)
        built, batch = trainer(sharding="fsdp", **KINDS[kind])
        assert built.policy.spread == spread
        rows.append([built.step(number, batch(number)).row() for number in (1, 2)])
        built.policy.save(tmp_path / str(spread), {})
    assert rows[1][0]["rewards/margins"] == 0
    for one, other in zip(*rows, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3, abs=1e-6)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-2)
