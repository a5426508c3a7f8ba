import math

import pytest
import torch
from diffusers import DDPMScheduler

from capo.training.guards import TrainingDiverged

CONV = ("to_q", "conv1", "proj_in")
FULL = {"adaptation": "full", "learning_rate": 1e-5}
KINDS = {
    "lora": {},
    "lora of convolutions": {"lora_targets": CONV},
    "dora": {"lora_dora": True, "lora_targets": CONV},
    "lora in bfloat16": {"dtype": "bfloat16"},
    "full": FULL,
    "full in bfloat16": {**FULL, "dtype": "bfloat16"},
    "full, narrow reference": {**FULL, "dtype": "bfloat16", "reference_dtype": "bfloat16"},
    "full, reference elsewhere": {**FULL, "reference_offload": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_before_the_first_step_policy_and_reference_are_equal(setup, kind):
    measures = setup(beta=5000.0, **KINDS[kind]).first_measures()
    assert not measures["rewards/margins"].any()
    assert not measures["drift"].any()
    assert measures["rewards/accuracies"].tolist() == [0.5] * 4


@pytest.mark.parametrize("kind", KINDS)
def test_training_changes_the_policy_alone(setup, kind):
    prepared = setup(**KINDS[kind])
    digest = prepared.policy.reference_digest()
    prepared.steps(1, 2)
    measures = prepared.first_measures()
    assert measures["drift"].all()
    assert prepared.policy.reference_digest() == digest


@pytest.mark.parametrize("objective", ["capo", "ipo", "dpo"])
def test_the_first_loss_is_that_of_margin_zero(setup, objective):
    prepared = setup(objective=objective, beta=5000.0)
    expected = {
        "capo": prepared.batches.batch(1).delta_reward.square(),
        "ipo": torch.ones(4),
        "dpo": torch.ones(4) * math.log(2),
    }
    torch.testing.assert_close(prepared.first_measures()["loss"].detach(), expected[objective])


@pytest.mark.parametrize("kind", [{}, {"lora_dora": True}, FULL])
def test_gradient_checkpointing_changes_no_bit(setup, kind):
    """Activations are recomputed in the backward pass, after the reference's pass has ended."""
    plain, recomputed = setup(**kind), setup(gradient_checkpointing=True, **kind)
    assert plain.steps(1, 2) == recomputed.steps(1, 2)
    weights = plain.policy.state(), recomputed.policy.state()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_step_never_waits_for_the_device(setup, monkeypatch):
    """Reading a number back would make a GPU idle; only `row` reads."""
    prepared = setup(ema_decay=0.9)
    prepared.steps(1)
    batch, read = prepared.batches.batch(2), []
    process = prepared.trainer.family.process
    weights = process.loss_weight(batch.t, "sigmoid", 1.5)  # its times never leave the CPU
    with monkeypatch.context() as patch:
        patch.setattr(process, "loss_weight", lambda *_: weights)
        for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"):
            real = getattr(torch.Tensor, name)
            patch.setattr(
                torch.Tensor, name, lambda self, *a, _n=name, _r=real: (read.append(_n), _r(self, *a))[1]
            )
        outcome = prepared.trainer.step(2, batch)
        assert read == []
        outcome.row()
        assert read


def test_the_margin_is_the_papers(setup, sdxl):
    """-β w (e_θ - e_ref), chosen minus rejected, from two forward passes by hand."""
    prepared = setup(beta=300.0)
    prepared.steps(1, 2)
    batch = prepared.batches.batch(3)
    family = prepared.trainer.family
    alphas_cumprod = DDPMScheduler.from_pretrained(sdxl, subfolder="scheduler").alphas_cumprod
    rewards = []
    for latents, noise in ((batch.chosen, batch.noise_chosen), (batch.rejected, batch.noise_rejected)):
        x_t = family.process.noise_to(latents, noise, batch.t)
        with torch.no_grad():
            policy = family.predict(x_t, batch.t, batch.conditioning).double()
            with prepared.policy.reference():
                reference = family.predict(x_t, batch.t, batch.conditioning).double()
        errors = [(answer - noise).square().mean((1, 2, 3)) for answer in (policy, reference)]
        alpha_squared = alphas_cumprod[batch.t].double()
        weight = torch.sigmoid(1.5 - (alpha_squared / (1 - alpha_squared)).log())
        rewards.append(-300.0 * weight * (errors[0] - errors[1]))
    measures = prepared.trainer.measure(batch)
    margins = measures["rewards/margins"].detach().double()
    assert margins.abs().max() > 1e-2
    torch.testing.assert_close(margins, rewards[0] - rewards[1], rtol=0, atol=3e-4)
    loss = (batch.delta_reward.double() - margins).square()
    torch.testing.assert_close(measures["loss"].detach().double(), loss, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("kind", [{}, FULL])
def test_accumulated_micro_batches_are_the_whole_batch(setup, size, kind):
    whole, split = setup(**kind), setup(per_device_batch_size=size, **kind)
    for one, other in zip(whole.steps(1, 2, 3), split.steps(1, 2, 3), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=2e-3)
    gradients = [{n: p.grad for n, p in s.policy.parameters().items()} for s in (whole, split)]
    difference = max((gradients[0][n] - gradients[1][n]).abs().max() for n in gradients[0])
    assert difference < 2e-3 * max(g.abs().max() for g in gradients[0].values())


def test_training_learns_its_pairs(setup):
    """Repeating one batch brings the margins near their targets (all 1 for IPO)."""
    prepared = setup(objective="ipo", learning_rate=3e-4, beta=1000.0, lora_rank=8)
    batch = prepared.batches.batch(1)
    rows = [prepared.trainer.step(step, batch).row() for step in range(1, 19)]
    assert rows[-1]["loss"] < 0.1
    assert rows[-1]["rewards/margins"] == pytest.approx(1, abs=0.3)
    assert rows[-1]["rewards/accuracies"] == 1


def test_the_gradient_is_clipped(setup):
    prepared = setup(max_grad_norm=1e-4)
    (row,) = prepared.steps(1)
    norm = torch.stack([p.grad.norm() for p in prepared.policy.parameters().values()]).norm()
    assert row["grad_norm"] > 1e-4
    assert norm == pytest.approx(1e-4, rel=1e-2)


def test_the_optimizer_is_adamw_with_the_recipes_numbers(setup):
    """One step of Adam from zero moments is lr in the direction of the gradient's sign."""
    prepared = setup(weight_decay=0.1, max_grad_norm=1e9, adam_epsilon=1e-30)
    before = {name: tensor.clone() for name, tensor in prepared.policy.state().items()}
    prepared.steps(1)
    for name, parameter in prepared.policy.parameters().items():
        moved = parameter.grad != 0
        expected = before[name] * (1 - 1e-3 * 0.1) - 1e-3 * parameter.grad.sign()
        torch.testing.assert_close(parameter.detach()[moved], expected[moved], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("kind", [{}, {"adaptation": "full"}])
@pytest.mark.parametrize("size", [None, 1])
def test_a_loss_that_is_not_finite_changes_nothing_and_names_its_prompt(setup, kind, size):
    prepared = setup(per_device_batch_size=size, **kind)
    prepared.steps(1)
    batch = prepared.batches.batch(2)
    batch.chosen[2] = torch.nan
    assert_stops(prepared, batch, rf"step 2: the loss is not finite, from prompts {batch.prompt_ids[2]};")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_running_out_of_memory_changes_nothing_and_names_the_setting(setup, monkeypatch, error):
    prepared = setup()
    prepared.steps(1)

    def fail(*_):
        raise error

    monkeypatch.setattr(prepared.trainer, "measure", fail)
    message = r"lower train.per_device_batch_size"
    assert_stops(prepared, prepared.batches.batch(2), message, RuntimeError)


@pytest.mark.parametrize("size", [None, 1])
def test_a_gradient_that_is_not_finite_changes_nothing(setup, size, monkeypatch):
    prepared = setup(per_device_batch_size=size)
    prepared.steps(1)
    parameter = next(iter(prepared.policy.parameters().values()))
    parameter.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
    batch = prepared.batches.batch(2)
    assert_stops(prepared, batch, f"step 2: the gradient is not finite, from prompts {batch.prompt_ids[0]}, ")


def assert_stops(prepared, batch, message, error=TrainingDiverged):
    """Assert that the step raises and changes neither weights nor moments."""
    before = prepared.everything()
    with pytest.raises(error, match=message):
        prepared.trainer.step(2, batch).row()
    after = prepared.everything()
    assert after.keys() == before.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
