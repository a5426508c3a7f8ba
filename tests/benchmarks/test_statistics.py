"""Intervals and paired comparisons of weighted means."""

import numpy as np
import pytest
import torch
from scipy.stats import t as student
from scipy.stats import ttest_ind

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
    """The mean of two categories' means has the interval of Welch's test, halved."""
    easy, hard = [1.0, 0.9, 1.0, 0.9, 0.95], [0.0, 0.1, 0.05]
    welch = ttest_ind(easy, np.negative(hard), equal_var=False).confidence_interval()
    groups = (Score("easy", dict(enumerate(easy))), Score("hard", dict(enumerate(hard, 5))))
    found = level(mean_of_means("overall", groups), (0.0, 1.0))
    assert found.value == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx((welch.low / 2, welch.high / 2))


def of_sizes(values):
    """Return the mean of the means of categories with these values."""
    starts = np.cumsum([0, *map(len, values)])
    groups = [Score(str(i), dict(enumerate(map(float, v), int(starts[i])))) for i, v in enumerate(values)]
    return mean_of_means("overall", groups)


@pytest.mark.parametrize(
    ("rates", "sizes", "most"),
    [
        ((0.95, 0.2, 0.6), (30, 12, 20), 0.98),
        ((0.9, 0.8, 0.35, 0.8, 0.2, 0.3), (2,) * 6, 1.0),
        ((0.9, 0.8, 0.35, 0.8, 0.2, 0.3), (4,) * 6, 0.98),
        ((0.9, 0.8, 0.35, 0.8, 0.2, 0.3), (1, 1, 3, 3, 4, 4), 1.0),
    ],
)
def test_intervals_of_a_mean_of_means_cover_as_they_say(rates, sizes, most):
    """Categories of very different difficulty, drawn again and again."""
    rng, covered = np.random.default_rng(0), []
    for _ in range(300):
        drawn = [rng.binomial(4, rate, size) / 4 for rate, size in zip(rates, sizes, strict=True)]
        found = level(of_sizes(drawn), (0.0, 1.0))
        covered.append(found.low <= np.mean(rates) <= found.high)
    assert 0.92 <= np.mean(covered) <= most


def test_a_category_of_one_prompt_takes_the_variance_of_the_others():
    changes, zero = ([0.5, -0.5, 0.0], [0.25, 0.0, 0.5], [1.0]), ([0.0] * 3, [0.0] * 3, [0.0])
    change = paired(of_sizes(changes), of_sizes(zero), 0.01, 0)
    assert change.value == pytest.approx((0.0 + 0.25 + 1.0) / 3)
    within = np.array([0.25, 0.0625])  # sample variances; their mean is the pooled variance
    parts = (within / 3 + within / 2) / 9
    reach = student.ppf(0.975, parts.sum() ** 2 / (parts**2 / 2).sum()) * np.sqrt(parts.sum())
    assert (change.low, change.high) == pytest.approx((change.value - reach, change.value + reach))
    assert change.detectable == pytest.approx(2.801585 * np.sqrt(parts.sum()), rel=1e-6)

    alone = paired(of_sizes([[0.5], [0.0]]), of_sizes([[0.0], [0.25]]), 0.01, 0)
    assert (alone.low, alone.high, alone.detectable, alone.prompts_needed) == (None, None, None, ())


def test_without_variation_within_categories_they_count_as_one():
    found = level(of_sizes([[1.0] * 8, [0.0] * 2]), (0.0, 1.0))
    assert found.low == pytest.approx(1 - found.high)
    assert 0 < found.low < 0.4


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
