"""Which checkpoints the loop has kept: those it may go back to, and the best by each of them."""

from types import SimpleNamespace

import pytest

from capo.recipe import TrainSection
from capo.training.loop import Loop

RATES = {0: 0.95, 1: 0.6, 2: 0.8, 3: 0.7, 4: 0.9, 5: 0.5}


@pytest.mark.parametrize(
    ("on_divergence", "over", "bests"),
    [("roll-back", False, [2, 4, 4]), ("roll-back", True, [4, 4, 4]), ("stop", False, [4, 4, 4])],
)
def test_the_best_up_to_a_step_that_training_may_go_back_to_is_kept(on_divergence, over, bests):
    asked = []
    loop = Loop(
        section=TrainSection(beta=1, keep_checkpoints=3, on_divergence=on_divergence),
        trainer=None,
        make_batch=None,
        checkpoints=SimpleNamespace(prune=lambda keep, best: asked.append((keep, [*map(best, (3, 4, 5))]))),
        metrics=None,
        validations=SimpleNamespace(rows=[{"step": s, "win_rate": r} for s, r in RATES.items()]),
        roll_backs=None,
        validate=None,
    )
    loop.prune(over=over)
    assert asked == [(3, bests)]
