"""Calibrated rewards: Eqs. 2, 7 and 28 against numbers worked by hand, double loops, and invariants."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from capo.method import BradleyTerry, Comparison, PowerRatio, Threshold, calibrate

COMPARISONS: list[Comparison] = [
    BradleyTerry(),
    BradleyTerry(0.3),
    PowerRatio(),
    PowerRatio(2.5),
    Threshold(),
]
# Halves of small integers: sums and differences are exact, and ties are common.
coarse = st.integers(0, 12).map(lambda n: n / 4)


def matrices(prompts: int = 3, samples: int = 5) -> st.SearchStrategy[Tensor]:
    """Scores `[prompts, samples]` in float64, many of them tied."""
    row = st.lists(coarse, min_size=samples, max_size=samples)
    return st.lists(row, min_size=prompts, max_size=prompts).map(
        lambda rows: torch.tensor(rows, dtype=torch.float64)
    )


def probability(comparison: Comparison, a: float, b: float) -> float:
    """The three comparisons as the paper states them, for plain numbers."""
    match comparison:
        case BradleyTerry(temperature):
            return 1 / (1 + math.exp(-(a - b) / temperature))
        case PowerRatio(exponent):
            return 0.5 if a == b else a**exponent / (a**exponent + b**exponent)
        case _:
            return 1.0 if a > b else 0.5 if a == b else 0.0


def by_double_loop(scores: list[float], comparison: Comparison) -> list[float]:
    """Eq. 7 as printed."""
    result = []
    for i, a in enumerate(scores):
        total = 0.0
        for j, b in enumerate(scores):
            if j != i:
                total += probability(comparison, a, b)
        result.append(total / (len(scores) - 1))
    return result


def test_bradley_terry_by_hand() -> None:
    """Scores log 3, 0, -log 3 at temperature 1.

    sigmoid(log 3) = 3/4 and sigmoid(2 log 3) = 9/10, so the rewards are
    (3/4 + 9/10) / 2 = 0.825, (1/4 + 3/4) / 2 = 0.5 and (1/10 + 1/4) / 2 = 0.175.
    """
    log3 = math.log(3)
    scores = torch.tensor([log3, 0.0, -log3], dtype=torch.float64)
    expected = torch.tensor([0.825, 0.5, 0.175], dtype=torch.float64)
    torch.testing.assert_close(calibrate(scores, BradleyTerry()), expected)


def test_temperature_divides_the_difference() -> None:
    """sigmoid(2 log 3 / 2) = sigmoid(log 3) = 3/4."""
    scores = torch.tensor([2 * math.log(3), 0.0], dtype=torch.float64)
    expected = torch.tensor([0.75, 0.25], dtype=torch.float64)
    torch.testing.assert_close(calibrate(scores, BradleyTerry(temperature=2.0)), expected)


def test_power_ratio_by_hand() -> None:
    """Scores 0.6, 0.2, 0.2: 0.6/0.8 = 3/4 twice; 0.2/0.8 = 1/4 and 1/2, mean 3/8.

    With exponent 2: 0.36/0.40 = 0.9 twice; 0.1 and 1/2, mean 0.3.
    """
    scores = torch.tensor([0.6, 0.2, 0.2], dtype=torch.float64)
    torch.testing.assert_close(
        calibrate(scores, PowerRatio()), torch.tensor([0.75, 0.375, 0.375], dtype=torch.float64)
    )
    torch.testing.assert_close(
        calibrate(scores, PowerRatio(exponent=2.0)), torch.tensor([0.9, 0.3, 0.3], dtype=torch.float64)
    )


def test_threshold_by_hand() -> None:
    """4 beats three; each 2 beats the 1, ties the other 2, loses to 4: (1 + 1/2 + 0) / 3."""
    rewards = calibrate(torch.tensor([2.0, 4.0, 1.0, 2.0]), Threshold())
    torch.testing.assert_close(rewards, torch.tensor([0.5, 1.0, 0.0, 0.5]))


def test_reference_by_hand() -> None:
    """log 3 against the pool {0, log 3}: (3/4 + 1/2) / 2; 0 against it: (1/2 + 1/4) / 2."""
    log3 = math.log(3)
    rewards = calibrate(torch.tensor([log3, 0.0]), BradleyTerry(), torch.tensor([0.0, log3]))
    torch.testing.assert_close(rewards, torch.tensor([0.625, 0.375]))


def test_one_sample_against_a_reference() -> None:
    assert calibrate(torch.tensor([1.0]), Threshold(), torch.tensor([0.0, 1.0, 2.0, 3.0])).tolist() == [0.375]


def test_two_samples_are_one_comparison() -> None:
    scores = torch.tensor([[1.3, -0.4]], dtype=torch.float64)
    win = torch.sigmoid(scores[0, 0] - scores[0, 1])
    torch.testing.assert_close(calibrate(scores, BradleyTerry()), torch.stack([win, 1 - win])[None])


@given(matrices())
def test_agrees_with_the_double_loop(scores: Tensor) -> None:
    for comparison in COMPARISONS:
        expected = [by_double_loop(row, comparison) for row in scores.tolist()]
        torch.testing.assert_close(
            calibrate(scores, comparison), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-14
        )


@given(matrices(), matrices(samples=4))
def test_reference_agrees_with_the_double_loop(scores: Tensor, pool: Tensor) -> None:
    for comparison in COMPARISONS:
        expected = [
            [sum([probability(comparison, a, b) for b in others]) / len(others) for a in row]
            for row, others in zip(scores.tolist(), pool.tolist(), strict=True)
        ]
        torch.testing.assert_close(
            calibrate(scores, comparison, pool), torch.tensor(expected, dtype=torch.float64)
        )


@given(matrices())
def test_mean_is_a_half(scores: Tensor) -> None:
    for comparison in COMPARISONS:
        for dtype, tolerance in ((torch.float64, 1e-15), (torch.float32, 1e-6)):
            mean = calibrate(scores.to(dtype), comparison).mean(dim=-1)
            torch.testing.assert_close(mean, torch.full_like(mean, 0.5), rtol=0, atol=tolerance)


@given(st.lists(st.floats(0, 100, width=32), min_size=2, max_size=9))
def test_order_never_changes(values: list[float]) -> None:
    """A higher score never has a lower reward, and equal scores have the same bits."""
    for dtype in (torch.float32, torch.float64):
        scores = torch.tensor(values, dtype=dtype)
        for comparison in COMPARISONS:
            rewards = calibrate(scores, comparison)
            assert ((rewards >= 0) & (rewards <= 1)).all()
            above = scores[:, None] > scores[None, :]
            equal = scores[:, None] == scores[None, :]
            assert (rewards[:, None] >= rewards[None, :])[above].all()
            assert (rewards[:, None] == rewards[None, :])[equal].all()


@given(matrices(), st.permutations(range(5)))
def test_permutation_equivariant_to_the_bit(scores: Tensor, order: list[int]) -> None:
    for comparison in COMPARISONS:
        assert torch.equal(calibrate(scores[:, order], comparison), calibrate(scores, comparison)[:, order])


@given(matrices(), st.integers(-40, 40))
def test_bradley_terry_ignores_a_shift(scores: Tensor, shift: int) -> None:
    """Equality is exact here, because quarters plus an integer have no rounding error."""
    assert torch.equal(calibrate(scores + shift, BradleyTerry()), calibrate(scores, BradleyTerry()))


@given(matrices(), st.floats(1e-3, 1e3))
def test_power_ratio_ignores_a_factor(scores: Tensor, factor: float) -> None:
    torch.testing.assert_close(calibrate(scores * factor, PowerRatio()), calibrate(scores, PowerRatio()))


@given(matrices())
def test_threshold_is_the_limit_of_small_temperatures(scores: Tensor) -> None:
    torch.testing.assert_close(calibrate(scores, BradleyTerry(1e-3)), calibrate(scores, Threshold()))


@given(matrices())
def test_pool_equal_to_the_set_counts_the_tie_with_oneself(scores: Tensor) -> None:
    """Against its own pool: ((N - 1) R_ca + 1/2) / N."""
    expected = (4 * calibrate(scores, BradleyTerry()) + 0.5) / 5
    torch.testing.assert_close(calibrate(scores, BradleyTerry(), scores), expected)


def test_leading_dimensions_are_batch() -> None:
    scores = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    pool = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    rewards = calibrate(scores, BradleyTerry(), pool)
    assert rewards.shape == scores.shape
    assert rewards.dtype == torch.float32
    torch.testing.assert_close(rewards[1, 2, 3], calibrate(scores[1, 2, 3], BradleyTerry(), pool[1, 2, 3]))


def test_any_layout_in_memory() -> None:
    scores = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    for view in (
        scores.permute(2, 1, 0),
        scores[..., 1],
        scores.movedim(0, -1)[::2],
        scores[:, :1].expand(5, 6, 3),
    ):
        copy = view.clone(memory_format=torch.contiguous_format)
        assert torch.equal(calibrate(view, BradleyTerry()), calibrate(copy, BradleyTerry()))
        assert torch.equal(calibrate(view, BradleyTerry(), view), calibrate(copy, BradleyTerry(), copy))


def test_no_prompts() -> None:
    assert calibrate(torch.empty(0, 4), BradleyTerry()).shape == (0, 4)
    assert calibrate(torch.empty(2, 0, 4), BradleyTerry(), torch.empty(2, 0, 3)).shape == (2, 0, 4)


def test_many_prompts_equal_few() -> None:
    """More prompts than one block holds, and a number that no block size divides."""
    scores = torch.randn(10_007, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rewards = calibrate(scores, BradleyTerry())
    torch.testing.assert_close(rewards[-7:], calibrate(scores[-7:], BradleyTerry()))
    torch.testing.assert_close(rewards[:7], calibrate(scores[:7], BradleyTerry()))


def test_rounding_breaks_no_tie_and_no_order() -> None:
    """Vector and scalar exponentials differ in their last bit; 37 samples are computed by both."""
    infinity = torch.tensor(math.inf)
    for trial in range(300):
        pool, score = torch.randn(2, 1, generator=torch.Generator().manual_seed(trial)) * 5
        assert calibrate(score.repeat(37), BradleyTerry(), pool).unique().numel() == 1
        steps = [score]
        for _ in range(36):
            steps.append(torch.nextafter(steps[-1], infinity))
        assert (calibrate(torch.cat(steps), BradleyTerry(), pool).diff() >= 0).all()


def test_extreme_scores() -> None:
    scores = torch.tensor([1e4, 0.0, -1e4, 1e4])
    third = torch.tensor([2.5, 1.0, 0.0, 2.5]) / 3
    torch.testing.assert_close(calibrate(scores, BradleyTerry()), third)
    huge = torch.tensor([1e308, -1e308, 0.0], dtype=torch.float64)
    assert calibrate(huge, BradleyTerry()).tolist() == [1.0, 0.0, 0.5]


def test_power_ratio_at_zero_and_near_it() -> None:
    """0 ties with 0 and loses to every other score; 1e-300 against 3e-300 is 1/4, as for larger numbers."""
    compare = PowerRatio()
    zero, tiny = torch.tensor(0.0, dtype=torch.float64), torch.tensor(1e-300, dtype=torch.float64)
    assert compare(zero, zero).item() == 0.5
    assert compare(zero, tiny).item() == 0.0
    assert compare(tiny, zero).item() == 1.0
    assert compare(tiny, 3 * tiny).item() == pytest.approx(0.25)
    assert calibrate(torch.stack([zero, zero, tiny]), compare).tolist() == [0.25, 0.25, 1.0]
    assert PowerRatio(1e4)(tiny, torch.ones_like(tiny)).item() == 0.0


def test_comparisons_broadcast() -> None:
    first, second = torch.rand(4, 1), torch.rand(3)
    for comparison in COMPARISONS:
        wins = comparison(first, second)
        assert wins.shape == (4, 3)
        torch.testing.assert_close(wins + comparison(second, first), torch.ones(4, 3))


def test_calibration_has_gradients() -> None:
    """d sigmoid(a - b) / da = 1/4 at a = b."""
    scores = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(BradleyTerry()(scores[0], scores[1]), scores)
    assert gradient.tolist() == [0.25, -0.25]


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_parameters_that_are_not_positive_are_rejected(value: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive and finite"):
        BradleyTerry(temperature=value)
    with pytest.raises(ValueError, match="exponent must be positive and finite"):
        PowerRatio(exponent=value)


def test_parameters_beyond_the_precision_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"temperature 1e-300 is out of range for torch.float32"):
        calibrate(torch.rand(3), BradleyTerry(1e-300))
    with pytest.raises(ValueError, match=r"exponent 1e\+300 is out of range for torch.float32"):
        calibrate(torch.rand(3), PowerRatio(1e300))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_rejected(value: float) -> None:
    scores = torch.ones(3, 4)
    scores[1, 2] = value
    scores[2, 0] = value
    with pytest.raises(ValueError, match=r"scores\[1, 2\] is -?(nan|inf).*finite"):
        calibrate(scores, BradleyTerry())
    with pytest.raises(ValueError, match=r"reference\[1, 2\] is -?(nan|inf).*finite"):
        calibrate(torch.ones(3, 4), BradleyTerry(), scores)
    for comparison in COMPARISONS:
        with pytest.raises(ValueError, match=r"first\[1, 2\]"):
            comparison(scores, torch.ones(()))
        with pytest.raises(ValueError, match=r"second is -?(nan|inf)"):
            comparison(torch.ones(()), scores[1, 2])


def test_power_ratio_rejects_negative_scores() -> None:
    scores = torch.ones(3, 4)
    scores[2, 1] = -0.25
    with pytest.raises(ValueError, match=r"scores: first\[2, 1\] is -0.25, but must be at least 0"):
        calibrate(scores, PowerRatio())
    with pytest.raises(ValueError, match=r"reference: first\[2, 1\] is -0.25"):
        calibrate(torch.ones(3, 4), PowerRatio(), scores)


@pytest.mark.usefixtures("no_shape_checks")
def test_invalid_shapes_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"scores must hold at least 2 .* got shape \[5, 1\]"):
        calibrate(torch.ones(5, 1), BradleyTerry())
    with pytest.raises(ValueError, match=r"scores must hold at least 2"):
        calibrate(torch.tensor(1.0), BradleyTerry())
    with pytest.raises(ValueError, match=r"reference must hold at least 1"):
        calibrate(torch.ones(5, 2), BradleyTerry(), torch.ones(5, 0))
    with pytest.raises(ValueError, match=r"scores \[5, 2\] and reference \[4, 2\] must agree"):
        calibrate(torch.ones(5, 2), BradleyTerry(), torch.ones(4, 2))
    with pytest.raises(ValueError, match=r"first \[3\] and second \[4\] do not broadcast"):
        Threshold()(torch.ones(3), torch.ones(4))


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float16, torch.bfloat16])
def test_other_dtypes_are_rejected(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"scores must be float32 or float64, got {dtype}"):
        calibrate(torch.ones(3, dtype=dtype), BradleyTerry())


def test_mixed_dtypes_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"dtypes differ: scores torch.float32, reference torch.float64"):
        calibrate(torch.ones(3), BradleyTerry(), torch.ones(3, dtype=torch.float64))
