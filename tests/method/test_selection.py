"""Pair selection (Sec. 4.3): frontiers by hand and by definition, and the allowed pairs."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from capo.method import (
    BradleyTerry,
    Comparison,
    PowerRatio,
    Threshold,
    allowed_pairs,
    calibrate,
    combine,
    draw_pair,
    lower_frontier,
    select_best_worst,
    select_frontier,
    select_sum,
    upper_frontier,
)

coarse = st.integers(0, 8).map(lambda n: n / 4)


def clouds(samples: int = 6, rewards: int = 3) -> st.SearchStrategy[Tensor]:
    """Scores `[samples, rewards]` in float64 with many ties and duplicates."""
    row = st.lists(coarse, min_size=rewards, max_size=rewards)
    return st.lists(row, min_size=samples, max_size=samples).map(
        lambda rows: torch.tensor(rows, dtype=torch.float64)
    )


def indices(mask: Tensor) -> list[int]:
    return mask.nonzero().flatten().tolist()


def naive_dominates(x: list[float], y: list[float]) -> bool:
    return all(a >= b for a, b in zip(x, y, strict=True)) and any(a > b for a, b in zip(x, y, strict=True))


def test_frontiers_by_hand() -> None:
    """A (3, 1), B (1, 3), C (2, 2), D (1, 1), E (0, 2), F (3, 1).

    A, its twin F, B and C are dominated by none. D (1, 1) is dominated by A, B, C; E (0, 2) by
    B and C. D and E dominate nothing; C beats D and E; A beats D; B beats D and E.
    """
    rewards = torch.tensor([[3.0, 1], [1, 3], [2, 2], [1, 1], [0, 2], [3, 1]])
    assert indices(upper_frontier(rewards)) == [0, 1, 2, 5]
    assert indices(lower_frontier(rewards)) == [3, 4]
    selection = select_frontier(rewards)
    assert indices(selection.chosen) == [0, 1, 2, 5]
    assert indices(selection.rejected) == [3, 4]


def test_a_sample_on_both_frontiers_is_rejected() -> None:
    """(0, 9) is comparable with nothing: on both frontiers, so it stays in the rejected set."""
    rewards = torch.tensor([[2.0, 2], [1, 1], [0, 9]])
    assert indices(upper_frontier(rewards)) == [0, 2]
    assert indices(lower_frontier(rewards)) == [1, 2]
    selection = select_frontier(rewards)
    assert indices(selection.chosen) == [0]
    assert indices(selection.rejected) == [1, 2]


@pytest.mark.parametrize(
    "rewards",
    [
        torch.tensor([[1.0, 4], [2, 3], [3, 2], [4, 1]]),  # nothing dominates anything
        torch.ones(4, 2),  # identical
        torch.ones(2, 1),
    ],
)
def test_no_pair_without_dominance(rewards: Tensor) -> None:
    selection = select_frontier(rewards)
    assert not selection.chosen.any()
    assert not selection.rejected.any()
    assert upper_frontier(rewards).all()


@given(clouds())
def test_frontiers_as_defined(cloud: Tensor) -> None:
    rows = cloud.tolist()
    upper = [not any(naive_dominates(other, row) for other in rows) for row in rows]
    lower = [not any(naive_dominates(row, other) for other in rows) for row in rows]
    assert upper_frontier(cloud).tolist() == upper
    assert lower_frontier(cloud).tolist() == lower
    chosen = [u and not d for u, d in zip(upper, lower, strict=True)]
    selection = select_frontier(cloud)
    assert selection.chosen.tolist() == chosen
    assert selection.rejected.tolist() == [any(chosen) and d for d in lower]


@given(clouds())
def test_raw_and_calibrated_frontiers_are_the_same(cloud: Tensor) -> None:
    comparisons: tuple[Comparison, ...] = (BradleyTerry(0.5), PowerRatio(), Threshold())
    columns = [calibrate(column, c) for column, c in zip(cloud.unbind(-1), comparisons, strict=True)]
    calibrated = torch.stack(columns, dim=-1)
    assert torch.equal(upper_frontier(calibrated), upper_frontier(cloud))
    assert torch.equal(lower_frontier(calibrated), lower_frontier(cloud))


@given(clouds(), st.permutations(range(6)), st.permutations(range(3)))
def test_frontiers_do_not_depend_on_the_order_of_samples_or_rewards(
    cloud: Tensor, samples: list[int], rewards: list[int]
) -> None:
    before, after = select_frontier(cloud), select_frontier(cloud[samples][:, rewards])
    assert torch.equal(after.chosen, before.chosen[samples])
    assert torch.equal(after.rejected, before.rejected[samples])


@given(clouds(rewards=1))
def test_one_reward_is_best_worst_with_ties(cloud: Tensor) -> None:
    reward = cloud[:, 0]
    selection = select_frontier(cloud)
    distinct = bool(reward.max() > reward.min())
    assert selection.chosen.tolist() == ((reward == reward.max()) & distinct).tolist()
    assert selection.rejected.tolist() == ((reward == reward.min()) & distinct).tolist()
    first = select_best_worst(reward)
    assert not (first.chosen & ~selection.chosen).any()
    assert not (first.rejected & ~selection.rejected).any()


def test_frontier_sizes_at_the_papers_setting() -> None:
    """Independent rewards, N = 16, L = 3: the expected frontier is sum of H_k / k, k = 1..16.

    H_k = 1 + 1/2 + ... + 1/k; a sample ranked k-th by the first reward is undominated when none
    of the k - 1 before it beat it in the other two, with probability H_k / k. The sum is 6.5.
    """
    harmonic = [sum(1 / j for j in range(1, k + 1)) for k in range(1, 17)]
    expected = sum(h / k for k, h in enumerate(harmonic, start=1))
    rewards = torch.rand(5000, 16, 3, generator=torch.Generator().manual_seed(0))
    for frontier in (upper_frontier(rewards), lower_frontier(rewards)):
        assert frontier.sum(dim=-1).double().mean().item() == pytest.approx(expected, abs=0.15)


def test_batches_equal_single_prompts() -> None:
    rewards = torch.randint(0, 5, (3, 2, 7, 2), generator=torch.Generator().manual_seed(0)).float()
    for select in (select_frontier, select_sum):
        together = select(rewards)
        for p in range(3):
            for q in range(2):
                alone = select(rewards[p, q])
                assert torch.equal(together.chosen[p, q], alone.chosen)
                assert torch.equal(together.rejected[p, q], alone.rejected)
    assert select_frontier(torch.empty(0, 4, 2)).chosen.shape == (0, 4)


def test_best_worst_takes_the_first_on_a_tie() -> None:
    selection = select_best_worst(torch.tensor([[0.5, 0.9, 0.1, 0.9, 0.1], [2.0, 1.0, 1.0, 2.0, 1.5]]))
    assert selection.chosen.tolist() == [[False, True, False, False, False], [True] + [False] * 4]
    assert selection.rejected.tolist() == [[False, False, True, False, False], [False, True] + [False] * 3]


def test_all_tied_yields_no_pair() -> None:
    for selection in (select_best_worst(torch.ones(2, 3)), select_sum(torch.ones(2, 3, 2))):
        assert not selection.chosen.any()
        assert not selection.rejected.any()


def test_combine_by_hand() -> None:
    """(0.2 + 0.6) / 2 = 0.4; with weights 3 and 1: (0.6 + 0.6) / 4 = 0.3."""
    rewards = torch.tensor([[0.2, 0.6]], dtype=torch.float64)
    assert combine(rewards).item() == pytest.approx(0.4)
    assert combine(rewards, torch.tensor([3.0, 1.0])).item() == pytest.approx(0.3)


def test_sum_by_hand() -> None:
    """Means 0.5, 0.55, 0.3; weighted 1 to 0 only the first reward counts: 0.9, 0.5, 0.6."""
    rewards = torch.tensor([[0.9, 0.1], [0.5, 0.6], [0.6, 0.0]])
    selection = select_sum(rewards)
    assert (indices(selection.chosen), indices(selection.rejected)) == ([1], [2])
    selection = select_sum(rewards, torch.tensor([1.0, 0.0]))
    assert (indices(selection.chosen), indices(selection.rejected)) == ([0], [1])


@given(clouds())
def test_sum_extremes_are_on_the_frontiers(cloud: Tensor) -> None:
    selection = select_sum(cloud)
    if selection.chosen.any():
        assert (combine(cloud)[selection.chosen] == combine(cloud).max()).all()
        assert upper_frontier(cloud)[selection.chosen].all()
        assert lower_frontier(cloud)[selection.rejected].all()


def test_allowed_pairs_by_hand() -> None:
    """Chosen 0 (0.7) and 3 (0.5), rejected 1 (0.6) and 2 (0.2); 4 is set aside."""
    chosen = torch.tensor([True, False, False, True, False])
    rejected = torch.tensor([False, True, True, False, False])
    combined = torch.tensor([0.7, 0.6, 0.2, 0.5, math.nan])
    every = [[0, 1], [0, 2], [3, 1], [3, 2]]
    assert allowed_pairs(chosen, rejected, combined, None).tolist() == every
    assert allowed_pairs(chosen, rejected, combined, -0.5).tolist() == every
    assert allowed_pairs(chosen, rejected, combined, 0.0).tolist() == [[0, 1], [0, 2], [3, 2]]
    assert allowed_pairs(chosen, rejected, combined, 0.25).tolist() == [[0, 2], [3, 2]]
    assert allowed_pairs(chosen, rejected, combined, 0.9).shape == (0, 2)


def test_a_margin_must_be_exceeded() -> None:
    chosen, rejected = torch.tensor([True, False]), torch.tensor([False, True])
    assert allowed_pairs(chosen, rejected, torch.tensor([0.5, 0.5]), 0.0).shape == (0, 2)


def test_draws_are_uniform_and_follow_the_generator() -> None:
    """8,000 draws of 4 pairs: each within 5 standard deviations (39) of 2,000."""
    allowed = torch.tensor([[0, 1], [0, 2], [3, 1], [3, 2]])
    generator = torch.Generator().manual_seed(0)
    draws = [draw_pair(allowed, generator) for _ in range(8000)]
    counts = Counter(draws)
    assert set(counts) == {(0, 1), (0, 2), (3, 1), (3, 2)}
    assert all(abs(count - 2000) < 195 for count in counts.values())
    again = torch.Generator().manual_seed(0)
    assert [draw_pair(allowed, again) for _ in range(20)] == draws[:20]


def test_an_empty_draw_is_rejected() -> None:
    with pytest.raises(ValueError, match="at least one pair"):
        draw_pair(torch.empty(0, 2, dtype=torch.int64), torch.Generator())


def test_rewards_that_are_not_finite_are_rejected() -> None:
    rewards = torch.ones(2, 3, 2)
    rewards[1, 2, 0] = math.inf
    for select in (select_frontier, select_sum, combine, upper_frontier, lower_frontier):
        with pytest.raises(ValueError, match=r"rewards\[1, 2, 0\] is inf"):
            select(rewards)
    with pytest.raises(ValueError, match=r"reward\[1, 2\] is inf"):
        select_best_worst(rewards[..., 0])


@pytest.mark.usefixtures("no_shape_checks")
def test_invalid_shapes_and_dtypes_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"\[\.\.\., N, L\] with N >= 2 and L >= 1, got \[1, 3\]"):
        select_frontier(torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"got \[4\]"):
        select_frontier(torch.ones(4))
    with pytest.raises(ValueError, match=r"got \[4, 0\]"):
        upper_frontier(torch.ones(4, 0))
    with pytest.raises(ValueError, match=r"reward must hold at least 2"):
        select_best_worst(torch.ones(3, 1))
    with pytest.raises(ValueError, match=r"rewards must be float32 or float64, got torch.int64"):
        select_frontier(torch.ones(4, 2, dtype=torch.int64))


@pytest.mark.usefixtures("no_shape_checks")
def test_invalid_weights_are_rejected() -> None:
    rewards = torch.ones(4, 2)
    with pytest.raises(ValueError, match=r"weights \[3\] must be one number per reward, \[2\]"):
        select_sum(rewards, torch.ones(3))
    with pytest.raises(ValueError, match=r"weights\[1\] is -1.0"):
        select_sum(rewards, torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match="weights are all 0"):
        select_sum(rewards, torch.zeros(2))


@pytest.mark.usefixtures("no_shape_checks")
def test_allowed_pairs_rejects_invalid_inputs() -> None:
    yes, no = torch.tensor([True, False]), torch.tensor([False, True])
    with pytest.raises(ValueError, match=r"chosen\[0\] is True"):
        allowed_pairs(yes, yes, torch.zeros(2), None)
    with pytest.raises(ValueError, match=r"combined\[1\] is nan"):
        allowed_pairs(yes, no, torch.tensor([0.0, math.nan]), None)
    with pytest.raises(ValueError, match=r"shapes differ: chosen \[2\], rejected \[2\], combined \[3\]"):
        allowed_pairs(yes, no, torch.zeros(3), None)
    with pytest.raises(ValueError, match="the samples of one prompt"):
        allowed_pairs(yes[None], no[None], torch.zeros(1, 2), None)
    with pytest.raises(ValueError, match="must be bool"):
        allowed_pairs(yes.float(), no.float(), torch.zeros(2), None)
