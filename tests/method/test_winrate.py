"""Win-rates and their intervals."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capo.method import bootstrap_interval, mean_interval, standard_error, win_rate


def scores(images: int) -> st.SearchStrategy[torch.Tensor]:
    """Scores `[3, images]` with many ties."""
    row = st.lists(st.integers(0, 4).map(float), min_size=images, max_size=images)
    return st.lists(row, min_size=3, max_size=3).map(torch.tensor)


def test_win_rate_by_hand() -> None:
    """3 and 1 against 2 and 1: wins 3>2, 3>1, a loss 1<2, a tie 1=1: 2.5 of 4."""
    rates = win_rate(torch.tensor([[3.0, 1.0], [0.0, 0.0]]), torch.tensor([[2.0, 1.0], [1.0, 1.0]]))
    assert rates.tolist() == [0.625, 0.0]
    assert rates.dtype == torch.float32


@given(scores(3), scores(2))
def test_agrees_with_the_double_loop(candidate: torch.Tensor, base: torch.Tensor) -> None:
    expected = []
    for ours, theirs in zip(candidate.tolist(), base.tolist(), strict=True):
        wins = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a in ours for b in theirs)
        expected.append(wins / 6)
    torch.testing.assert_close(win_rate(candidate, base), torch.tensor(expected))
    torch.testing.assert_close(win_rate(base, candidate), 1 - torch.tensor(expected))


@given(scores(4))
def test_against_itself_is_a_half(values: torch.Tensor) -> None:
    assert win_rate(values, values).tolist() == [0.5, 0.5, 0.5]
    assert win_rate(values.double(), values.double()).dtype == torch.float64


def test_interval_is_decided_by_the_seed() -> None:
    values = torch.rand(50, generator=torch.Generator().manual_seed(0))
    first = bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) == first
    assert bootstrap_interval(values, seed=2) != first
    state = torch.get_rng_state()
    bootstrap_interval(values, seed=3, resamples=10)
    assert torch.equal(torch.get_rng_state(), state)


def test_interval_is_near_the_normal_one() -> None:
    """For 400 values the central limit gives mean +- 1.96 standard errors."""
    values = torch.rand(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = bootstrap_interval(values, seed=0)
    mean, error = values.mean().item(), standard_error(values)
    assert low == pytest.approx(mean - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.1 * error)
    narrow = bootstrap_interval(values, seed=0, confidence=0.5)
    assert low < narrow[0] < mean < narrow[1] < high


def test_interval_in_several_blocks() -> None:
    """30,000 values draw 133 resamples at a time; 300 are three blocks, the last one short."""
    values = torch.rand(30_000, generator=torch.Generator().manual_seed(0))
    low, high = bootstrap_interval(values, seed=0, resamples=300)
    mean, error = values.double().mean().item(), standard_error(values)
    assert mean - 3 * error < low < mean - error
    assert mean + error < high < mean + 3 * error


def test_t_interval_by_hand() -> None:
    """0, 1, 2, 1: mean 1, error sqrt(2/3)/2, t = 3.182446 with 3 degrees of freedom."""
    values = torch.tensor([0.0, 1.0, 2.0, 1.0])
    reach = 3.182446 * math.sqrt(2 / 3) / 2
    assert mean_interval(values) == pytest.approx((1 - reach, 1 + reach))
    assert mean_interval(values, bounds=(0.0, 2.0)) == (0.0, 2.0)


@pytest.mark.parametrize("count", [8, 20])
def test_t_interval_has_its_nominal_coverage(count: int) -> None:
    """1,000 experiments on win-rates of 4 x 4 comparisons: 95% cover the mean, within 3 deviations (2%)."""
    generator = torch.Generator().manual_seed(count)
    rates = (torch.rand(1000, count, 16, generator=generator, dtype=torch.float64) < 0.6).double().mean(-1)
    covered = 0
    for values in rates:
        low, high = mean_interval(values, (0.0, 1.0))
        covered += low <= 0.6 <= high
    assert abs(covered / 1000 - 0.95) < 0.021


def test_constant_and_single_values() -> None:
    assert bootstrap_interval(torch.full((5,), 0.25), seed=0, resamples=10) == (0.25, 0.25)
    assert bootstrap_interval(torch.tensor([0.75]), seed=0, resamples=10) == (0.75, 0.75)


def test_equal_values_leave_room_for_prompts_that_differ() -> None:
    """Six wins of six: up to 39.3% of prompts may be lost, since 0.607^6 = 0.05."""
    low, high = mean_interval(torch.ones(6), (0.0, 1.0))
    assert (low, high) == (pytest.approx(0.05 ** (1 / 6)), 1.0)
    low, high = mean_interval(torch.full((2,), 0.75), (0.0, 1.0))
    assert low < 0.2
    assert high > 0.9
    assert mean_interval(torch.tensor([3.0])) == (-math.inf, math.inf)
    with pytest.raises(ValueError, match="between 0 and 1"):
        mean_interval(torch.tensor([0.5, 1.5]), (0.0, 1.0))


def test_standard_error_by_hand() -> None:
    """0, 1, 2, 1: squared deviations 1 + 0 + 1 + 0, variance 2/3, error sqrt(2/3) / 2."""
    assert standard_error(torch.tensor([0.0, 1.0, 2.0, 1.0])) == pytest.approx(math.sqrt(2 / 3) / 2)


@pytest.mark.usefixtures("no_shape_checks")
def test_invalid_inputs_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"candidate\[0, 1\] is nan"):
        win_rate(torch.tensor([[1.0, math.nan]]), torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"candidate \[2, 3\] and base \[3, 2\] must be"):
        win_rate(torch.ones(2, 3), torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"base must hold at least 1"):
        win_rate(torch.ones(2, 3), torch.ones(2, 0))
    with pytest.raises(ValueError, match="dtypes differ"):
        win_rate(torch.ones(2, 3), torch.ones(2, 3).double())
    with pytest.raises(ValueError, match=r"values must be \[P\] with P >= 1, got \[0\]"):
        bootstrap_interval(torch.empty(0), seed=0)
    with pytest.raises(ValueError, match="confidence must be between 0 and 1, got 95"):
        bootstrap_interval(torch.ones(3), seed=0, confidence=95)
    with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
        bootstrap_interval(torch.ones(3), seed=0, resamples=0)
    with pytest.raises(ValueError, match=r"values must be \[P\] with P >= 2, got \[1\]"):
        standard_error(torch.ones(1))
    with pytest.raises(ValueError, match=r"values\[2\] is inf"):
        standard_error(torch.tensor([0.0, 1.0, math.inf]))
