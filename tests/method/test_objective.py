"""Implicit reward and objectives: Eqs. 8, 22 and 23 by hand, with gradients and extremes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capo.method import capo_loss, denoising_error, dpo_loss, implicit_accuracy, implicit_reward, ipo_loss

margins = st.lists(st.floats(-30, 30), min_size=1, max_size=5).map(
    lambda values: torch.tensor(values, dtype=torch.float64, requires_grad=True)
)


def test_error_is_a_mean_over_elements() -> None:
    """Differences 1, 2, 0, -1: (1 + 4 + 0 + 1) / 4 = 1.5; all 3: 9."""
    prediction = torch.tensor([[[1.0, 2], [0, -1]], [[3, 3], [3, 3]]])
    assert denoising_error(prediction, torch.zeros(2, 2, 2)).tolist() == [1.5, 9.0]


def test_error_is_computed_in_float32() -> None:
    """In bfloat16 the sum of 4,096 ones would stop at 256, and 1 + 2^-9 would be 1."""
    prediction = torch.ones(1, 4096, dtype=torch.bfloat16)
    error = denoising_error(prediction, torch.zeros(1, 4096))
    assert error.dtype == torch.float32
    assert error.item() == 1.0
    assert denoising_error(torch.ones(1, 2).double(), torch.zeros(1, 2)).dtype == torch.float64


def test_implicit_reward_by_hand() -> None:
    """-0.5 (0.2 - 0.6) = 0.2: better than the reference; -2 (0.5 - 0.25) = -0.5: worse."""
    policy, reference = torch.tensor([0.2, 0.5]), torch.tensor([0.6, 0.25])
    reward = implicit_reward(policy, reference, torch.tensor([0.5, 2.0]))
    torch.testing.assert_close(reward, torch.tensor([0.2, -0.5]))


def test_step_zero() -> None:
    """Policy = reference: margin 0, so the losses are delta^2, 1 and log 2 and accuracy 1/2."""
    error = torch.rand(3)
    margin = 500 * implicit_reward(error, error.clone(), torch.ones(3))
    assert margin.tolist() == [0, 0, 0]
    delta = torch.tensor([0.5, -0.25, 0.0])
    assert capo_loss(margin, delta).tolist() == [0.25, 0.0625, 0.0]
    assert ipo_loss(margin).tolist() == [1, 1, 1]
    torch.testing.assert_close(dpo_loss(margin), torch.full((3,), math.log(2)))
    assert implicit_accuracy(margin).tolist() == [0.5, 0.5, 0.5]


def test_losses_by_hand() -> None:
    """At u = log 3: sigmoid(u) = 3/4, so DPO is log(4/3). At u = 0.5: IPO 0.25, CaPO to 0.3: 0.04."""
    assert dpo_loss(torch.tensor([math.log(3)])).item() == pytest.approx(math.log(4 / 3))
    assert ipo_loss(torch.tensor([0.5])).item() == 0.25
    assert capo_loss(torch.tensor([0.5]), torch.tensor([0.3])).item() == pytest.approx(0.04)


@given(margins, st.floats(-1, 1))
def test_capo_gradient(margin: torch.Tensor, delta: float) -> None:
    (gradient,) = torch.autograd.grad(capo_loss(margin, torch.full_like(margin, delta)).sum(), margin)
    torch.testing.assert_close(gradient, -2 * (delta - margin.detach()))


@given(margins)
def test_dpo_gradient(margin: torch.Tensor) -> None:
    (gradient,) = torch.autograd.grad(dpo_loss(margin).sum(), margin)
    torch.testing.assert_close(gradient, -torch.sigmoid(-margin.detach()))


@given(margins)
def test_ipo_is_capo_with_target_one(margin: torch.Tensor) -> None:
    assert torch.equal(ipo_loss(margin), capo_loss(margin, torch.ones_like(margin)))


def test_every_pair_has_its_own_loss() -> None:
    """The mean is outside the nonlinearity: the losses of a batch are those of its pairs."""
    margin, delta = torch.tensor([-2.0, 0.0, 3.0]), torch.tensor([0.1, 0.2, 0.3])
    for k in range(3):
        assert capo_loss(margin, delta)[k] == capo_loss(margin[k : k + 1], delta[k : k + 1])[0]
        assert dpo_loss(margin)[k] == dpo_loss(margin[k : k + 1])[0]


def test_gradient_reaches_the_policy_only_through_its_error() -> None:
    """d R / d policy_error = -weight."""
    policy = torch.tensor([0.3, 0.4], requires_grad=True)
    reward = implicit_reward(policy, torch.tensor([0.3, 0.1]), torch.tensor([0.5, 2.0]))
    (gradient,) = torch.autograd.grad(reward.sum(), policy)
    assert gradient.tolist() == [-0.5, -2.0]


def test_extreme_margins() -> None:
    margin = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = dpo_loss(margin)
    assert loss.tolist() == [1e4, 0.0]
    (gradient,) = torch.autograd.grad(loss.sum(), margin)
    assert gradient.tolist() == [-1.0, 0.0]


def test_accuracy() -> None:
    assert implicit_accuracy(torch.tensor([-0.1, 0.0, 2.0])).tolist() == [0.0, 0.5, 1.0]


def test_half_precision_is_promoted() -> None:
    margin = torch.ones(2, dtype=torch.float16)
    for loss in (dpo_loss(margin), ipo_loss(margin), capo_loss(margin, margin), implicit_accuracy(margin)):
        assert loss.dtype == torch.float32
    assert implicit_reward(margin, margin, margin).dtype == torch.float32


@pytest.mark.usefixtures("no_shape_checks")
def test_invalid_inputs_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"shapes differ: prediction \[2, 3\], target \[2, 4\]"):
        denoising_error(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"prediction must be \[B, ...\] with elements, got \[2\]"):
        denoising_error(torch.ones(2), torch.ones(2))
    with pytest.raises(ValueError, match=r"shapes differ: .* weight \[1\]"):
        implicit_reward(torch.ones(2), torch.ones(2), torch.ones(1))
    with pytest.raises(ValueError, match=r"shapes differ: margin \[2\], delta_reward \[2, 1\]"):
        capo_loss(torch.ones(2), torch.ones(2, 1))
    with pytest.raises(ValueError, match=r"margin must be floating point, got torch.int64"):
        dpo_loss(torch.ones(2, dtype=torch.int64))
