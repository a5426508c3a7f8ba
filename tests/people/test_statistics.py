"""Intervals, agreement and power of votes, against golden values and against simulation."""

import numpy as np
import pytest

from capo.people import clustered
from capo.people.agreement import krippendorff_alpha, pairwise_agreement
from capo.people.clustered import clustered_mean, variances
from capo.people.study_power import Votes, power, prompts_needed_for, smallest_difference


def simulated(rng, prompts, raters, difference, votes):
    """Draw votes with the variance components of `votes`; prompts and raters are above or below the mean."""
    by_prompt, by_rater, _ = votes.components(difference)
    chances = (
        0.5
        + difference
        + rng.choice([-1, 1], (prompts, 1)) * by_prompt**0.5
        + rng.choice([-1, 1], raters) * by_rater**0.5
    )
    chosen = rng.random((prompts, raters)) < chances
    at_prompt, at_rater = np.indices(chosen.shape).reshape(2, -1)
    return chosen.ravel().astype(float), at_prompt, at_rater


@pytest.mark.parametrize(
    ("prompts", "raters", "difference", "votes"),
    [
        (60, 6, 0.1, Votes(0.65, 0.0)),  # prompts differ, raters agree
        (40, 8, 0.1, Votes(0.55, 0.1)),  # raters differ most
        (60, 5, 0.08, Votes(0.5, 0.0)),  # coins
    ],
)
def test_intervals_cover_and_power_is_as_computed(monkeypatch, prompts, raters, difference, votes):
    """Of 150 simulated studies, 95% of intervals contain the truth: within 3.5 standard errors."""
    monkeypatch.setattr(clustered, "RESAMPLES", 199)
    rng = np.random.default_rng(3)
    means = [clustered_mean(*simulated(rng, prompts, raters, difference, votes), seed=i) for i in range(150)]
    covered = np.mean([mean.low <= 0.5 + difference <= mean.high for mean in means])
    detected = np.mean([mean.p < 0.05 for mean in means])
    expected = power(prompts, raters, difference, votes)
    assert abs(covered - 0.95) < 3.5 * (0.95 * 0.05 / 150) ** 0.5
    assert abs(detected - expected) < 3.5 * (expected * (1 - expected) / 150) ** 0.5


def test_intervals_that_ignore_raters_are_too_narrow():
    """Six raters of whom each always prefers one model: 240 votes, but only six opinions."""
    chosen = np.repeat([[1.0, 1, 1, 1, 0, 0]], 40, axis=0)
    at_prompt, at_rater = np.indices(chosen.shape).reshape(2, -1)
    mean = clustered_mean(chosen.ravel(), at_prompt, at_rater, seed=0)
    parts = variances(chosen.ravel(), at_prompt, at_rater)
    assert parts.raters == pytest.approx((4 / 6 * 2 / 6) / 5)  # of a mean over six numbers
    assert parts.prompts == pytest.approx(0)
    assert mean.low < 0.2
    assert mean.p > 0.2


def test_single_votes_of_strangers_are_clustered_by_prompt_alone():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2, 90).astype(float)
    prompts = np.repeat(np.arange(30), 3)
    parts = variances(values, prompts, np.arange(90))
    means = values.reshape(30, 3).mean(axis=1)
    assert parts.both == pytest.approx(means.var(ddof=1) / 30, rel=0.02)


def test_degenerate_votes():
    all_won = clustered_mean([1.0] * 12, list("aabbccddeeff"), list("xyxyxyxyxyxy"), seed=0)
    assert (all_won.value, all_won.high) == (1, 1)
    assert all_won.low == pytest.approx(0.05**0.5)  # two equal raters
    for prompts, raters in (("abc", "xxx"), ("aaa", "xyz")):
        for votes in ([1.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.5, 0.5, 0.5]):
            single = clustered_mean(votes, list(prompts), list(raters), seed=0)
            assert (single.low, single.high, single.p) == (0, 1, 1)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        clustered_mean([2.0], ["a"], ["x"], seed=0)


def test_votes_that_balance_have_the_error_of_independent_votes():
    """Every prompt and every rater has one vote in three for the model: the clusters show no variance."""
    at_prompt, at_rater = np.indices((6, 6)).reshape(2, -1)
    mean = clustered_mean((at_prompt + at_rater) % 3 == 0, at_prompt, at_rater, seed=0)
    assert mean.error == pytest.approx((1 / 3 * 2 / 3 / 36) ** 0.5)
    assert (mean.low + mean.high) / 2 == pytest.approx(1 / 3)
    assert mean.high - mean.value == pytest.approx(2.5706 * mean.error, rel=1e-4)  # Student's, 5 degrees
    assert 0.05 < mean.p < 0.1
    two = clustered_mean([1, 0, 0, 1], [0, 0, 1, 1], [0, 1, 0, 1], seed=0)
    assert (two.low, two.high, two.p) == (0, 1, 1)


def test_swapping_the_models_mirrors_the_interval():
    rng = np.random.default_rng(5)
    votes = simulated(rng, 30, 5, 0.1, Votes())
    mean, mirrored = clustered_mean(*votes, seed=1), clustered_mean(1 - votes[0], *votes[1:], seed=1)
    assert mirrored.value == pytest.approx(1 - mean.value)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - mean.high, 1 - mean.low))
    assert mirrored.p == mean.p


def test_alpha_is_that_of_krippendorffs_examples():
    """The two examples of his "Computing Krippendorff's Alpha-Reliability" (2011), sections B and C to E."""
    four = [
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    ]
    two = ["0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0"]

    def units(rows):
        columns = zip(*(row.split() for row in rows), strict=True)
        return {str(u): [float(v) for v in column if v != "."] for u, column in enumerate(columns)}

    assert krippendorff_alpha(units(four)) == pytest.approx(0.849, abs=5e-4)
    assert krippendorff_alpha(units(two)) == pytest.approx(0.095, abs=5e-4)


def test_agreement_without_information():
    assert krippendorff_alpha({"a": [1.0], "b": [0.0]}) is None
    assert krippendorff_alpha({"a": [1.0, 1.0]}) is None
    assert pairwise_agreement({"a": [1.0], "b": []}) is None
    assert pairwise_agreement({"a": [1.0, 1.0, 0.0], "b": [0.5, 0.5]}) == pytest.approx((2 + 2) / (6 + 2))


def test_designs_are_consistent():
    votes = Votes(agreement=0.65, spread=0.02)
    needed = prompts_needed_for(10, 0.05, votes, wanted=0.8)
    assert power(needed, 10, 0.05, votes) >= 0.8 > power(needed - 1, 10, 0.05, votes)
    seen = smallest_difference(200, 10, votes, wanted=0.8)
    assert power(200, 10, seen, votes) >= 0.8 > power(200, 10, seen - 0.001, votes)
    # The paper's 52.0% of 200 prompts with 5 raters each: coins alone have a standard error of 1.6 points.
    assert power(200, 5, 0.02, Votes(agreement=0.5, spread=0.0)) < 0.3
    assert prompts_needed_for(3, 0.02, Votes(spread=0.05), wanted=0.8) is None
    with pytest.raises(ValueError, match="spread"):
        power(200, 5, 0.05, Votes(agreement=1.0, spread=0.1))
