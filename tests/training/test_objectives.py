"""Adding an objective takes one function and one entry in the table."""

from pathlib import Path

import pytest
import torch

from capo.method.objective import preference_loss
from capo.method.objective_table import OBJECTIVES, Objective
from capo.recipe import RecipeError, load_recipe


def hinge_loss(margin, delta_reward):
    return (delta_reward + 1 - margin).relu()


def test_every_objective_in_the_table_has_a_loss_per_pair():
    margin, delta_reward = torch.tensor([0.0, 2.0]), torch.tensor([0.5, 0.5])
    losses = {n: preference_loss(o, margin, delta_reward).tolist() for n, o in OBJECTIVES.items()}
    expected = {"capo": [0.25, 2.25], "ipo": [1.0, 1.0], "dpo": [0.693147, 0.126928]}
    assert losses == {name: pytest.approx(values, abs=1e-6) for name, values in expected.items()}


def test_a_new_entry_in_the_table_can_be_trained_with(setup, monkeypatch):
    with pytest.raises(RecipeError, match=r"train\.objective"):
        load_recipe("shapes", ["train.objective=hinge"])
    hinge = Objective(f"{__name__}:hinge_loss", "max(0, 1 + ΔR − u)", "", uses_delta_reward=True)
    monkeypatch.setitem(OBJECTIVES, "hinge", hinge)
    prepared = setup(objective="hinge")
    (row,) = prepared.steps(1)
    assert row["loss"] == pytest.approx(1 + row["delta_reward"], rel=1e-5)
    assert row["grad_norm"] > 0


def test_the_page_about_the_method_lists_every_objective():
    page = Path(__file__).parents[2] / "docs/concepts/method.md"
    rows = [
        f"| `{name}` | {o.formula} | {o.source} | {'yes' if o.uses_delta_reward else 'no'} |"
        for name, o in OBJECTIVES.items()
    ]
    assert "\n".join(rows) in page.read_text(encoding="utf-8")
