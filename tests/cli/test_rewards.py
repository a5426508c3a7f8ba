"""The `capo rewards` commands."""

import json

import pytest
from typer.testing import CliRunner

from capo.cli import app
from capo.rewards import entry_names

OWN = """
def brightness(images, prompts):
    return [sum(image.resize((1, 1)).getpixel((0, 0))) for image in images]
brightness.comparison = {"comparison": "bradley-terry", "temperature": 20.0}

def forgetful(images, prompts):
    return [1.0]
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with a user's own rewards, and an installed package with three."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setenv("CAPO_QUIET", "1")
    (tmp_path / "own_for_cli.py").write_text(OWN)
    (tmp_path / "broken_for_cli.py").write_text("raise RuntimeError('needs a GPU')\n")
    info = tmp_path / "plugin-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.2\n")
    entries = "[capo.rewards]\nbright = own_for_cli:brightness\nlost = not_there_at_all:score\n"
    entries += "broken = broken_for_cli:score\n"
    (info / "entry_points.txt").write_text(entries)
    monkeypatch.syspath_prepend(tmp_path)


def capo(*arguments, code=0):
    result = CliRunner().invoke(app, ["rewards", *arguments])
    assert result.exit_code == code, result.output
    return result


def test_the_list_has_shipped_and_installed_rewards():
    listed = {row["name"]: row for row in json.loads(capo("--json").stdout)["rewards"]}
    assert list(listed) == [*entry_names(), "bright", "lost", "broken"]
    assert listed["shapes-vqa"]["weights_here"] is True
    assert listed["shapes-vqa"]["comparison"] == {"comparison": "power-ratio", "exponent": 1.0}
    assert listed["pickscore"]["checkpoint"].startswith("yuvalkirstain/PickScore_v1@")
    assert listed["bright"]["package"] == "plugin 1.2"
    assert "no module 'not_there_at_all'" in listed["lost"]["problem"]
    assert listed["broken"]["problem"] == "needs a GPU"
    table = capo().stdout
    assert all(name in table for name in listed)
    assert "3.7 GiB" in table


def test_show_lists_the_options():
    shown = capo("show", "ocr").stdout
    assert json.loads(capo("--json", "show", "bright").stdout)["source"] == "own_for_cli:brightness"
    assert "no JSON output" in capo("--json", "serve", "bright", code=2).output
    assert 'options: unit="characters"' in shown
    assert "reading order" in shown
    assert json.loads(capo("show", "bright", "--json").stdout)["source"] == "own_for_cli:brightness"
    assert "did you mean 'pickscore'?" in capo("show", "pickscor", code=1).output
    assert (
        "no shipped reward 'own_for_cli:brightness'" in capo("show", "own_for_cli:brightness", code=1).output
    )


def test_check_prints_scores_speed_and_conformance():
    output = capo("check", "own_for_cli:brightness", "--device", "cpu").stdout
    assert "a sign with the word" in output
    assert "images/s" in output
    found = json.loads(capo("check", "bright", "--device", "cpu", "--json").stdout)
    assert found["passed"]
    assert {check["problem"] for check in found["checks"]} == {None}
    assert all(row["score"] > 0 for row in found["scores"])


def test_a_failed_check_exits_with_1():
    failed = capo("check", "own_for_cli:forgetful", "--device", "cpu", code=1)
    assert "must return 8 numbers for 8 images, got shape (1,)" in failed.stdout


def test_check_uses_the_settings_of_a_recipe():
    arguments = ["--recipe", "shapes", "--device", "cpu", "--json"]
    name = "aesthetic"
    assert json.loads(capo("check", name, *arguments).stdout)["name"] == name
    assert "shapes has no reward 'pickscore'" in capo("check", "pickscore", *arguments, code=2).output
    assert "'./own.py' is not a reward" in capo("check", "./own.py", code=2).output
    assert "with --recipe" in capo("check", name, "--set", "a=1", code=2).output
