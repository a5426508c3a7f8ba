"""When pairs are clear enough to stop sampling, checked by plain loops over the pairs."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capo.method import combine, select_frontier
from capo.method.clear_pairs import has_clear_pairs

quarters = st.integers(0, 4).map(lambda n: n / 4)
prompts = st.lists(st.lists(st.tuples(quarters, quarters), min_size=4, max_size=4), min_size=1, max_size=4)


@given(prompts, st.sampled_from([0.1, 0.25, 0.6, 1.0]))
def test_the_mean_over_all_pairs_is_compared(values, margin):
    rewards = torch.tensor(values, dtype=torch.float64)
    combined = combine(rewards)
    chosen, rejected = select_frontier(rewards)
    found = has_clear_pairs(chosen, rejected, combined, margin).tolist()
    for p, settled in enumerate(found):
        differences = [
            float(combined[p, a] - combined[p, b])
            for a in range(4)
            for b in range(4)
            if chosen[p, a] and rejected[p, b]
        ]
        mean = math.fsum(differences) / len(differences) if differences else -1.0
        if abs(mean - margin) > 1e-9:
            assert settled == (mean > margin)


@pytest.mark.usefixtures("no_shape_checks")
def test_by_hand():
    chosen = torch.tensor([[True, False, False, True], [False] * 4])
    rejected = torch.tensor([[False, True, False, False], [False] * 4])
    combined = torch.tensor([[0.75, 0.25, math.nan, 0.5], [math.nan] * 4])  # (0.5 + 0.25) / 2 = 0.375
    assert has_clear_pairs(chosen, rejected, combined, 0.375).tolist() == [True, False]
    assert has_clear_pairs(chosen, rejected, combined, 0.376).tolist() == [False, False]
    with pytest.raises(ValueError, match=r"shapes differ: chosen \[2, 4\], rejected \[2, 3\]"):
        has_clear_pairs(chosen, rejected[:, :3], combined, 0.2)
