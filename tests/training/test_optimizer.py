import sys

import pytest
import torch
from diffusers.optimization import get_scheduler

from capo.recipe import TrainSection
from capo.training.optimizer import Optimizer, build_adamw, learning_rate


def rates(steps=10, halvings=0, **section):
    settings = TrainSection(beta=1, learning_rate=0.8, steps=steps, **section)
    return [learning_rate(step, settings, halvings) for step in range(1, steps + 1)]


def test_the_learning_rate_warms_up_and_stays_constant():
    assert rates(6, warmup_steps=4) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    assert rates(2) == [0.8, 0.8]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 3])
def test_the_learning_rate_then_falls_as_in_diffusers(schedule, warmup):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.8)
    theirs = get_scheduler(schedule, optimizer, num_warmup_steps=warmup, num_training_steps=10)
    expected = [0.8 * theirs.lr_lambdas[0](step) for step in range(10)]
    assert rates(schedule=schedule, warmup_steps=warmup)[warmup:] == pytest.approx(expected[warmup:])


def test_every_roll_back_halves_the_learning_rate():
    assert rates(4, halvings=2, warmup_steps=2) == pytest.approx([0.1, 0.2, 0.2, 0.2])


def test_a_loss_that_is_not_finite_changes_nothing_even_with_a_finite_gradient():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = Optimizer({"w": weight}, TrainSection(beta=1, weight_decay=0.1))
    for bad in (torch.nan, torch.inf):
        weight.grad = torch.ones(3)
        optimizer.update(1e-3, torch.tensor([0.5, bad]))
        assert weight.tolist() == [1, 1, 1]
        assert not any(moment.any() for moment in optimizer.moments().values())
    weight.grad = torch.ones(3)
    optimizer.update(1e-3, torch.tensor([0.5]))
    assert (weight < 1).all()


def test_missing_bitsandbytes_is_an_error_that_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ImportError, match=r"train.optimizer: .* pip install 'capo-diffusion\[8bit\]'"):
        build_adamw({}, TrainSection(beta=1, optimizer="adamw-8bit"))
