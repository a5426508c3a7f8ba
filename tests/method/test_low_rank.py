"""Soups of LoRA updates against the soup of the full weights that they represent."""

import pytest
import torch
from torch import Tensor

from capo.method.low_rank import LowRank, low_rank_soup, refactored
from capo.method.soup import soup

SETTINGS = [
    {"interpolation": "linear"},
    {"interpolation": "linear", "weights": [3, 1, 2]},
    {},
    {"weights": [1, 0.5, 2]},
    {"angle": "global"},
    {"angle": "global", "weights": [0, 2, 1]},
]


def policy(rank: int, seed: int) -> dict[str, LowRank]:
    """Updates of a linear layer and of a convolution."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return {
        "linear": LowRank(draw(7, rank), draw(rank, 5)),
        "conv": LowRank(draw(6, rank, 1, 1), draw(rank, 4, 3, 3)),
    }


def multiplied(update: LowRank) -> Tensor:
    """The update ΔW that a LoRA layer adds; for convolutions, a 1 x 1 after a k x k kernel."""
    if update.up.ndim == 2:
        return update.up @ update.down
    return torch.einsum("orxy,rikl->oikl", update.up, update.down)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_soup_of_updates_is_the_soup_of_the_weights(settings: dict[str, object]) -> None:
    """Apply `soup` to base and base + ΔW with an unrelated base, because only the updates matter."""
    policies = [policy(2, 0), policy(1, 1), policy(3, 2)]
    generator = torch.Generator().manual_seed(9)
    base = {
        name: torch.randn(multiplied(update).shape, generator=generator, dtype=torch.float64)
        for name, update in policies[0].items()
    }
    tuned = [{name: base[name] + multiplied(update) for name, update in each.items()} for each in policies]
    expected = soup(base, tuned, **settings)  # type: ignore[arg-type]
    merged = low_rank_soup(policies, **settings)  # type: ignore[arg-type]
    for name, update in merged.items():
        assert update.rank == 6
        torch.testing.assert_close(base[name] + multiplied(update), expected[name])


@pytest.mark.parametrize("name", ["linear", "conv"])
@pytest.mark.parametrize("rank", [1, 2, 4, 9])
def test_refactoring_gives_the_best_approximation_of_its_rank(name: str, rank: int) -> None:
    """The loss equals the discarded singular values of ΔW; at its own rank and above, nothing is lost."""
    update = policy(4, 3)[name]
    whole = multiplied(update)
    smaller, lost, total = refactored(update, rank)
    assert smaller.rank == rank
    assert smaller.up.shape[2:] == update.up.shape[2:]
    values = torch.linalg.svdvals(whole.flatten(1))
    assert total == pytest.approx(whole.square().sum().item())
    assert lost == pytest.approx(values[rank:].square().sum().item(), abs=1e-9)
    assert (multiplied(smaller) - whole).square().sum().item() == pytest.approx(lost, abs=1e-9)


def test_updates_that_do_not_match_are_rejected() -> None:
    first, second = policy(2, 0), policy(2, 1)
    wide = {**second, "conv": LowRank(second["conv"].up, torch.ones(2, 4, 1, 1).double())}
    with pytest.raises(ValueError, match=r"module 'conv': shapes differ: policy 0 .* \[2, 4, 1, 1\]"):
        low_rank_soup([first, wide])
    for policies in ([first, {"conv": first["conv"]}], [{"conv": first["conv"]}, first]):
        with pytest.raises(ValueError, match="only one has 'linear'"):
            low_rank_soup(policies)
    second["linear"].down[1, 2] = torch.inf
    for angle in ("tensor", "global"):
        with pytest.raises(ValueError, match=r"module 'linear': policy 1 down\[1, 2\] is inf"):
            low_rank_soup([first, second], angle=angle)
