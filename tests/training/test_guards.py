"""Divergence is detected in the logged rows; over-optimization and lack of progress, in validations."""

import pytest

from capo.recipe import TrainSection
from capo.training.guards import DivergenceGuard, TrainingDiverged, overoptimization, reason_to_end


def stopped_at(*growth, margins=(), limit=1.0, every=1):
    """The step at which the guard stops, by errors on chosen samples; None if it does not."""
    guard = DivergenceGuard(TrainSection(beta=1, max_error_growth=limit), [])
    for place, value in enumerate(growth):
        row = {"step": every * (place + 1), "error/chosen": value}
        try:
            guard.check({**row, "rewards/margins": margins[place] if margins else 0.0})
        except TrainingDiverged:
            return row["step"]
    return None


def test_noise_around_a_healthy_level_passes():
    assert stopped_at(*[0.9, 0.2, 1.3, 0.4] * 50) is None


def test_one_bad_batch_passes_a_terrible_one_does_not():
    assert stopped_at(*[0.1] * 20, 8.0, *[0.1] * 20) is None
    assert stopped_at(*[0.1] * 20, 80.0) == 21


def test_lasting_growth_is_detected_within_some_steps():
    """1 - exp(-n / 10) of 1.5 passes 1 at n = 10 ln 3 = 11."""
    assert stopped_at(*[1.5] * 40) == 11


def test_the_average_is_over_steps_not_rows():
    assert stopped_at(*[1.5] * 40, every=10) == 20


@pytest.mark.parametrize("sign", [1, -1])
def test_growing_margins_are_detected(sign):
    assert stopped_at(*[0.0] * 60, margins=[sign * 0.5 * step for step in range(60)]) is not None
    assert stopped_at(*[0.0] * 60, margins=[sign * 3.0] * 60) is None


def test_the_errors_say_what_to_change():
    rows = [{"step": 1, "error/chosen": 90.0, "rewards/margins": 0.0}]
    with pytest.raises(TrainingDiverged, match=r"step 1: .* is 856% above .* lower train.learning_rate"):
        DivergenceGuard(TrainSection(beta=1), []).check(rows[0])
    with pytest.raises(TrainingDiverged, match=r"margins .* lower train.learning_rate or"):
        DivergenceGuard(TrainSection(beta=1), []).check(
            {**rows[0], "error/chosen": 0.0, "rewards/margins": 900.0}
        )


def test_a_resumed_guard_equals_one_that_read_all_rows():
    rows = [{"step": s, "error/chosen": s / 10, "rewards/margins": 0.0} for s in range(1, 12)]
    section = TrainSection(beta=1)
    whole, resumed = DivergenceGuard(section, rows), DivergenceGuard(section, rows[:6])
    for row in rows[6:]:
        resumed.check(row)
    assert vars(whole) == vars(resumed)


def test_only_steps_far_from_the_limits_are_calm():
    guard = DivergenceGuard(TrainSection(beta=1), [])
    for step in range(2, 60, 2):
        guard.check({"step": step, "error/chosen": 0.0 if step < 30 else 0.9, "rewards/margins": 0.0})
    assert [guard.calm(step) for step in (1, 2, 29, 31, 57)] == [False, True, True, True, False]


def validations(*rates):
    """Rows at steps 0, 10, 20, … from win-rates by the training and the held-out rewards."""
    return [
        {"step": 10 * i, "win_rate": a, "held_out_win_rate": b, "held_out_standard_error": 0.02}
        for i, (a, b) in enumerate(rates)
    ]


@pytest.mark.parametrize(
    ("rates", "alarm"),
    [
        ([(0.5, 0.5), (0.6, 0.6), (0.7, 0.5)], True),
        ([(0.5, 0.5), (0.6, 0.6), (0.7, 0.57)], False),  # less than two standard errors, 0.057
        ([(0.5, 0.5), (0.6, 0.6), (0.58, 0.5)], False),  # both fell
        ([(0.5, 0.5), (0.6, 0.6), (0.7, 0.7)], False),
        ([(0.5, 0.5), (0.6, 0.6), (0.7, 0.5), (0.7, 0.6)], False),  # recovered
        ([(0.5, 0.9), (0.6, 0.5)], False),  # step 0 is the base itself
    ],
)
def test_over_optimization_is_training_rewards_up_and_held_out_ones_down(rates, alarm):
    description = overoptimization(validations(*rates))
    assert (description is not None) == alarm
    stops = TrainSection(beta=1, on_overoptimization="stop")
    assert reason_to_end(validations(*rates), stops) == description
    assert reason_to_end(validations(*rates), TrainSection(beta=1)) is None


def test_without_held_out_rewards_there_is_no_alarm():
    assert overoptimization([{"step": s, "win_rate": 0.5 + s} for s in (0, 1, 2)]) is None


@pytest.mark.parametrize(
    ("rates", "end"), [((0.6, 0.5), False), ((0.6, 0.5, 0.6), True), ((0.6, 0.5, 0.7), False)]
)
def test_patience_counts_validations_without_a_better_one(rates, end):
    rows = validations(*((rate, 0.5) for rate in (0.9, *rates)))
    reason = reason_to_end(rows, TrainSection(beta=1, patience=2))
    assert (reason is not None) == end
    if end:
        assert "2 validations since step 10" in reason
