"""The loop keeps the checkpoints it may return to, and the best one up to each of them."""

from types import SimpleNamespace

import pytest

from capo.recipe import TrainSection
from capo.training.loop import Loop

RATES = {0: 0.95, 1: 0.6, 2: 0.8, 3: 0.7, 4: 0.9, 5: 0.5}


@pytest.mark.parametrize(
    ("on_divergence", "over", "bests"),
    [("roll-back", False, [2, 4, 4]), ("roll-back", True, [4, 4, 4]), ("stop", False, [4, 4, 4])],
)
def test_the_best_up_to_a_step_that_training_may_return_to_is_kept(on_divergence, over, bests):
    pruned = []
    section = TrainSection(beta=1, keep_checkpoints=3, on_divergence=on_divergence)
    checkpoints = SimpleNamespace(prune=lambda keep, best: pruned.append((keep, [*map(best, (3, 4, 5))])))
    rows = [{"step": step, "win_rate": rate} for step, rate in RATES.items()]
    records = SimpleNamespace(validations=SimpleNamespace(rows=rows))
    loop = Loop(section, None, None, checkpoints, records, None)
    loop.prune(over=over)
    assert pruned == [(3, bests)]
