"""The examples of the page on adding a reward work as it says."""

import re
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

import tiny_run
from capo import BradleyTerry
from capo.recipe import RewardSection
from capo.rewards import build_comparison, load_reward
from capo.scoring.score import make_scores
from capo.scoring.score_table import read_scores
from capo.store import Run
from capo.store.step import Job

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "add-a-reward.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A current directory that contains the page's modules."""
    function, program = blocks("python")
    (tmp_path / "my_rewards.py").write_text(function)
    (tmp_path / "width.py").write_text(program)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_function_takes_ten_lines():
    code, _ = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10


def test_the_function_scores_a_run(own):
    rewards = yaml.safe_load(blocks("yaml")[0])["rewards"]
    recipe = tiny_run.recipe(rewards)
    prompts = tiny_run.prompts(4)
    with Run.open(own / "run") as run:
        pixels = tiny_run.fill(run, recipe, prompts)
        artifact = run.artifact("scores/warmth")
        artifact.begin({})
        make_scores(Job(recipe, run, (artifact,)))
        for row in read_scores(artifact).to_pylist():
            image = pixels[row["prompt_id"], row["sample"]] / 255
            assert row["score"] == pytest.approx(image[..., 0].mean() - image[..., 2].mean())


def test_the_temperature_is_the_difference_that_wins_73_percent(own):
    import torch

    section = RewardSection(name="warmth", source="my_rewards:warmth")
    assert build_comparison(section)(*torch.tensor([0.1, 0.0])).item() == pytest.approx(0.73, abs=0.005)
    assert load_reward(section, "cpu").score([Image.new("RGB", (2, 2), "red")], ["a"]) == [1.0]


def test_the_program_scores(own, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    section = RewardSection(**yaml.safe_load(blocks("yaml")[2])["rewards"][0])
    assert load_reward(section, "cpu").score([Image.new("RGB", (6, 2))], ["a"]) == [3.0]
    assert build_comparison(section) == BradleyTerry(0.1)


def test_the_recipes_are_valid():
    for text in blocks("yaml"):
        assert tiny_run.recipe(yaml.safe_load(text)["rewards"]).rewards
    (inline,) = re.findall(r"`(\{name: warmth.*comparison.*\})`", PAGE.read_text(encoding="utf-8"))
    assert build_comparison(RewardSection(**yaml.safe_load(inline))) == BradleyTerry(0.05)
