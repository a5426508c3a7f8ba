"""Sign tests, paired differences, and the number of prompts a difference needs."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import permutation_test

from capo.method import (
    detectable_difference,
    mean_interval,
    paired_difference,
    prompts_needed,
    same_seed_win_rate,
    sign_flip_p,
    sign_test,
)


def noisy(count: int, mean: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return mean + torch.randn(count, generator=generator, dtype=torch.float64)


@pytest.mark.usefixtures("no_shape_checks")
def test_same_seed_win_rate_by_hand() -> None:
    """3>2, 1=1, 0<5: (1 + 1/2 + 0) / 3; images of different seeds are not compared."""
    candidate = torch.tensor([[3.0, 1.0, 0.0], [9.0, 0.0, 9.0]])
    base = torch.tensor([[2.0, 1.0, 5.0], [8.0, 1.0, 8.0]])
    assert same_seed_win_rate(candidate, base).tolist() == pytest.approx([0.5, 2 / 3])
    assert (same_seed_win_rate(candidate, base) + same_seed_win_rate(base, candidate)).tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="shapes differ"):
        same_seed_win_rate(candidate, base[:, :2])
    with pytest.raises(ValueError, match=r"base\[0, 1\] is nan"):
        same_seed_win_rate(torch.ones(1, 2), torch.tensor([[1.0, math.nan]]))


def test_sign_test_by_hand() -> None:
    """7 won, 1 lost, 2 tied: 1 + 8 of 2^8 outcomes are at least as uneven on either side, p = 18/256."""
    values = torch.tensor([0.9] * 7 + [0.1] + [0.5] * 2)
    found = sign_test(values, 0.5)
    assert (found.won, found.lost, found.tied) == (7, 1, 2)
    assert found.p == pytest.approx(18 / 256)
    assert sign_test(1 - values, 0.5).p == pytest.approx(18 / 256)


def test_sign_test_without_a_decision() -> None:
    assert sign_test(torch.full((4,), 0.5), 0.5).p == 1.0
    assert sign_test(torch.tensor([1.0, -1.0]), 0.0).p == 1.0
    with pytest.raises(ValueError, match=r"values must be \[P\] with P >= 1"):
        sign_test(torch.empty(0), 0.5)


def test_paired_difference_is_the_mean_of_differences() -> None:
    candidate, base = noisy(60, 0.3, 0), noisy(60, 0.0, 1)
    found = paired_difference(candidate, base, seed=4)
    assert found.value == pytest.approx((candidate.mean() - base.mean()).item())
    assert (found.low, found.high) == pytest.approx(mean_interval(candidate - base))
    assert found.p == sign_flip_p(candidate - base, seed=4)
    turned = paired_difference(base, candidate, seed=4)
    assert (turned.value, turned.p) == pytest.approx((-found.value, found.p))


def test_sign_flips_by_enumeration() -> None:
    differences = np.array([0.3, -0.1, 0.2, 0.4, 0.05, 0.1])
    flips = itertools.product((1, -1), repeat=len(differences))
    means = [abs(np.mean(differences * np.array(signs))) for signs in flips]
    expected = np.mean([mean >= abs(differences.mean()) - 1e-12 for mean in means])
    assert sign_flip_p(torch.from_numpy(differences), seed=0) == pytest.approx(expected)
    assert sign_flip_p(torch.from_numpy(-differences), seed=0) == pytest.approx(expected)
    assert sign_flip_p(torch.from_numpy(np.zeros(5)), seed=0) == 1.0
    assert sign_flip_p(torch.from_numpy(np.array([0.3])), seed=0) == 1.0, "a single prompt says nothing"
    clear = np.random.default_rng(0).normal(0.3, 0.3, 2000)
    assert sign_flip_p(torch.from_numpy(clear), seed=0) == 2 / 10_000, (
        "no flip is as far; the observed signs are one of the flips"
    )


def test_sign_flips_agree_with_scipy() -> None:
    """The p-values equal scipy's to the last bit, in a hundredth of the time."""
    for seed, prompts in enumerate((12, 14, 30)):
        differences = np.random.default_rng(seed).integers(-8, 11, prompts) / 64
        found = permutation_test(
            (differences,),
            lambda flipped, axis: flipped.mean(axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=9999,
            rng=np.random.default_rng(seed),
        )
        assert sign_flip_p(torch.from_numpy(differences), seed) == found.pvalue


def test_sign_flips_agree_with_the_normal_test() -> None:
    """For 500 prompts two standard errors from zero, about 4.6% of chance lies further out."""
    values = noisy(500, 0.0, 0)
    values = (values - values.mean()) / values.std()
    shifted = values + 2 / math.sqrt(500)
    assert sign_flip_p(shifted, seed=0) == pytest.approx(math.erfc(2 / math.sqrt(2)), abs=0.01)


@pytest.mark.usefixtures("no_shape_checks")
def test_paired_difference_at_the_ends() -> None:
    """Of equal differences, no variance and so no interval is known; of 2^5 signs 2 are as far."""
    zero, one = torch.zeros(5), torch.ones(5)
    assert paired_difference(zero, zero, seed=0).p == 1.0
    sure = paired_difference(one, zero, seed=0)
    assert (sure.value, sure.low, sure.high, sure.p) == (1.0, -math.inf, math.inf, 2 / 32)
    with pytest.raises(ValueError, match="shapes differ"):
        paired_difference(one, zero[:4], seed=0)


def test_the_false_positive_rate_is_the_level() -> None:
    """Of 300 experiments with 10 prompts and no difference 5% fall below 0.05, within 4 deviations (5%)."""
    below = sum(sign_flip_p(noisy(10, 0.0, seed), seed) < 0.05 for seed in range(300))
    assert abs(below / 300 - 0.05) < 0.05


def test_prompts_needed_by_hand() -> None:
    """Deviation 0.2, 5 points, z = 1.959964 + 0.841621: (2.801585 · 0.2 / 0.05)² = 125.58."""
    values = torch.tensor([0.3, 0.7] * 50, dtype=torch.float64)
    std = 0.2 * math.sqrt(100 / 99)
    assert prompts_needed(values, 0.05) == math.ceil((2.801585 * std / 0.05) ** 2) == 127
    assert prompts_needed(values, 0.05, power=0.5) == math.ceil((1.959964 * std / 0.05) ** 2)
    assert prompts_needed(torch.full((9,), 0.5), 0.01) == 2


def test_the_needed_number_of_prompts_detects_the_difference() -> None:
    """With the computed number, a z-test detects the difference in 80% of 400 experiments, within 8%."""
    difference = 0.3
    count = prompts_needed(noisy(4000, 0.0, 0), difference)
    seen = 0
    for seed in range(400):
        values = noisy(count, difference, 1000 + seed)
        seen += bool(values.mean().abs() / (values.std() / math.sqrt(count)) > 1.959964)
    assert abs(seen / 400 - 0.8) < 0.08


def test_detectable_difference_inverts_prompts_needed() -> None:
    values = noisy(100, 0.0, 3)
    assert prompts_needed(values, detectable_difference(values) * (1 + 1e-9)) == 100
    with pytest.raises(ValueError, match=r"power must be between 0\.5 and 1, got 80"):
        detectable_difference(values, power=80)
    with pytest.raises(ValueError, match="difference must be positive and finite, got 0"):
        prompts_needed(values, 0)
