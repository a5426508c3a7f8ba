"""A run directory of version 0.1 stays readable.

That version made `tests/fixtures/run-0.1.zip` from `run-0.1.yaml`.
"""

import json
import shutil
from pathlib import Path

import pytest

from capo import load_recipe, pipeline
from capo.store import Run

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def old(tmp_path):
    shutil.unpack_archive(FIXTURES / "run-0.1.zip", tmp_path)
    return tmp_path / "run-0.1"


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_artifact_is_up_to_date(old):
    states = {each.name: each.state for each in pipeline.status(load_recipe(old / "recipe.yaml"), old)}
    assert len(states) == 11
    assert set(states.values()) == {"done"}


def test_rerunning_changes_nothing(old):
    before = contents(old)
    result = pipeline.run(load_recipe(old / "recipe.yaml"), old)
    assert all(stage.skipped for stage in result.stages)
    assert contents(old) == before


def test_the_report_is_rendered_again(old):
    recipe = load_recipe(old / "recipe.yaml", ["report.title=Again"])
    result = pipeline.run(recipe, old, stage="report", force=True)
    assert [stage.name for stage in result.stages] == ["report"]
    assert "Again" in result.report.read_text(encoding="utf-8")


def test_its_policy_is_evaluated(old, tmp_path):
    """The scores are those that version 0.1 wrote, up to the last bit of pixels, which processors differ in.

    These few images are so alike that one bit may decide which of two is better.
    """
    changes = [f"evaluate.policy={json.dumps(str(old / 'train' / 'best'))}"]
    again = pipeline.run(load_recipe(old / "recipe.yaml", changes), tmp_path / "new", stage="evaluate")
    before = Run(old).artifact("evaluate").read_json("results.json")
    for reward, old_reward in zip(again.results["rewards"], before["rewards"], strict=True):
        for model in ("base", "tuned"):
            assert reward[f"mean_{model}"] == pytest.approx(old_reward[f"mean_{model}"], abs=1e-3)
        assert reward["win_rate"] == pytest.approx(old_reward["win_rate"], abs=0.1)
