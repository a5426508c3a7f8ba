"""Intervals and paired comparisons of weighted means."""

import numpy as np
import pytest
import torch

from capo.benchmarks.score_statistics import level, paired
from capo.benchmarks.summary import Score, mean_of_means
from capo.method import mean_interval, paired_difference, prompts_needed

VALUES = np.array([0.0, 1.0, 0.5, 1.0, 0.25, 0.75])


def score(values, **fields):
    return Score("x", dict(enumerate(map(float, values))), **fields)


def test_without_weights_and_strata_the_statistics_are_those_of_the_mean_over_prompts():
    found = level(score(VALUES), (0.0, 1.0))
    assert (found.value, found.prompts) == (VALUES.mean(), 6)
    assert (found.low, found.high) == pytest.approx(mean_interval(torch.from_numpy(VALUES), (0.0, 1.0)))
    other = np.array([0.0, 0.5, 0.5, 0.0, 0.5, 0.25])
    expected = paired_difference(torch.from_numpy(VALUES), torch.from_numpy(other), 3)
    change = paired(score(VALUES), score(other), 0.01, 3)
    assert (change.value, change.p) == (expected.value, expected.p)
    assert (change.low, change.high) == pytest.approx((expected.low, expected.high))
    assert (change.sign_test.won, change.sign_test.lost, change.sign_test.tied) == (3, 1, 2)
    needed = prompts_needed(torch.from_numpy(VALUES - other), 0.02)
    assert (change.prompts_needed[1].points, change.prompts_needed[1].prompts) == (2, needed)


def test_strata_leave_only_the_variation_within_them():
    groups = (Score("easy", {0: 1.0, 1: 0.9, 2: 1.0, 3: 0.9}), Score("hard", {4: 0.0, 5: 0.1}))
    whole = mean_of_means("overall", groups)
    found = level(whole, (0.0, 1.0))
    assert found.value == pytest.approx(0.5)
    flat = level(Score("flat", whole.values, whole.weights), (0.0, 1.0))
    assert flat.value == pytest.approx(0.5)
    assert found.high - found.low < 0.25 * (flat.high - flat.low)


def test_intervals_of_a_mean_of_means_cover_as_they_say():
    """Categories of very different difficulty and size, drawn again and again."""
    rng, rates, sizes = np.random.default_rng(0), (0.95, 0.2, 0.6), (30, 12, 20)
    covered = []
    for _ in range(300):
        groups, start = [], 0
        for rate, size in zip(rates, sizes, strict=True):
            values = rng.binomial(4, rate, size) / 4
            groups.append(Score(str(rate), dict(enumerate(values.tolist(), start))))
            start += size
        found = level(mean_of_means("overall", groups), (0.0, 1.0))
        covered.append(found.low <= np.mean(rates) <= found.high)
    assert 0.92 <= np.mean(covered) <= 0.98


def test_prompts_without_a_judgment_in_one_model_are_left_out_of_the_difference():
    change = paired(Score("x", {0: 1.0, 1: 1.0, 2: 0.0}), Score("x", {1: 0.0, 2: 0.0, 3: 1.0}), 0.01, 0)
    assert (change.prompts, change.value) == (2, 0.5)
    assert paired(Score("x", {0: 1.0}), Score("x", {1: 1.0}), 0.01, 0) is None


def test_equal_values_have_an_interval_by_their_number_and_no_power():
    found = level(score(np.ones(20)), (0.0, 1.0))
    assert found.high == 1.0
    assert 0.8 < found.low < 0.9
    change = paired(score(np.ones(20)), score(np.ones(20)), 0.01, 0)
    assert (change.value, change.low, change.high, change.p, change.prompts_needed) == (
        0.0,
        None,
        None,
        1.0,
        (),
    )
    assert level(Score("x", {}), (0.0, 1.0)) is None
    with pytest.raises(ValueError, match="between"):
        level(score(np.array([1.5, 0.0])), (0.0, 1.0))
    assert level(score(np.array([1.5, 0.0])), None).high > 1
