"""What the README shows runs, and prints what it says it prints."""

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
    """What the comments behind its prints say, in order."""
    return re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)


PURE, WHOLE = blocks(README, "python")


@pytest.mark.parametrize("page", ["README.md", "docs/concepts/method.md"])
def test_the_mathematics_print_what_is_said(page, capsys):
    code = blocks((ROOT / page).read_text(encoding="utf-8"), "python")[0]
    exec(compile(code, page, "exec"), {})
    assert capsys.readouterr().out.splitlines() == promised(code) != []


def test_the_run_runs(tmp_path, monkeypatch, capsys):
    """With stages that need no model; the embedded recipe itself takes minutes."""
    fake_stages.install(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    exec(compile(WHOLE, "README.md", "exec"), {})
    *rewards, report = capsys.readouterr().out.splitlines()
    assert len(rewards) == len(fake_stages.RESULTS["rewards"])
    assert [report] == promised(WHOLE)
    assert os.path.exists(report)  # noqa: PTH110


def test_its_recipe_is_valid():
    (text,) = blocks(README, "yaml")
    assert parse_recipe(yaml.safe_load(text)).training_rewards
