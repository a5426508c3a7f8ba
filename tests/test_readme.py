"""The code and the recipe in the README and the pages run, and print what their comments promise."""

import os
import re
from pathlib import Path

import pytest
import yaml

import fake_stages
from capo.recipe import parse_recipe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def promised(code):
    """The output that the comments after the prints promise, in order."""
    return re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)


WHOLE, PURE = blocks(README, "python")


METHOD = (ROOT / "docs/concepts/method.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("code", [PURE, blocks(METHOD, "python")[0]], ids=["README", "method"])
def test_tensor_functions_print_their_documented_values(code, capsys):
    exec(compile(code, "page", "exec"), {})
    assert capsys.readouterr().out.splitlines() == promised(code) != []


def test_a_run_from_python(tmp_path, monkeypatch, capsys):
    """The stages are fakes that need no model: the embedded recipe itself takes minutes."""
    fake_stages.install(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    exec(compile(WHOLE, "README.md", "exec"), {})
    *rewards, report = capsys.readouterr().out.splitlines()
    assert len(rewards) == len(fake_stages.RESULTS["rewards"])
    assert [report] == promised(WHOLE)
    assert os.path.exists(report)  # noqa: PTH110


@pytest.mark.parametrize("page", ["README.md", "docs/start/sdxl.md"])
def test_recipes_are_valid(page):
    recipes = blocks((ROOT / page).read_text(encoding="utf-8"), "yaml")
    assert recipes
    for text in recipes:
        assert parse_recipe(yaml.safe_load(text)).training_rewards
