import torch


def test_the_average_follows_the_weights(setup):
    """a ← d a + (1 - d) w with d = 0, 2/11, 3/12, …, and never above `ema_decay`."""
    prepared = setup(ema_decay=0.22)
    name, parameter = next(iter(prepared.policy.parameters().items()))
    expected = parameter.detach().double()
    for update, decay in enumerate((0, 2 / 11, 0.22, 0.22), start=1):
        prepared.steps(update)
        expected = decay * expected + (1 - decay) * parameter.detach().double()
    with prepared.trainer.averaged():
        torch.testing.assert_close(prepared.policy.state()[name].double(), expected, rtol=0, atol=1e-7)


def test_the_weights_return_afterwards(setup):
    prepared = setup(ema_decay=0.9)
    prepared.steps(1, 2, 3)
    before = prepared.everything()
    with prepared.trainer.averaged():
        assert any(not torch.equal(before[n], t) for n, t in prepared.policy.state().items())
    assert all(torch.equal(before[n], t) for n, t in prepared.everything().items())
