"""`capo push` against a Hub on this machine."""

import io
import json

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from typer.testing import CliRunner

from capo.cli import app
from loopback_hub import SHA, aim, commit, serving
from synthetic_run import Options, make_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    options = Options(prompts=2, samples=2, evaluation_prompts=3, evaluation_samples=1, steps=5)
    return make_run(tmp_path_factory.mktemp("push") / "run", options)[1].path


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    with serving(None, kind="models") as server:
        aim(monkeypatch, server.url)
        yield server


def capo(*arguments, code=0, answer=None):
    result = CliRunner().invoke(app, [str(each) for each in arguments], input=answer)
    assert result.exit_code == code, result.output
    return result


def test_policy_card_and_images_become_a_private_repository(finished, hub):
    printed = capo("push", finished, "owner/name", answer="y\n").stdout
    assert "new private repository owner/name" in printed
    assert (hub.created["name"], hub.created["organization"]) == ("name", "owner")
    assert hub.created.get("private") is True or hub.created.get("visibility") == "private"
    assert hub.pushed["capo.json"] == (finished / "train/best/capo.json").read_bytes()
    card = ModelCard(hub.pushed["README.md"].decode())
    assert {result.metric_type for result in card.data.eval_results} == {"win_rate"}
    results = json.loads((finished / "evaluate/results.json").read_text())
    rates = {result.metric_name.rpartition(", ")[2]: result.metric_value for result in card.data.eval_results}
    for reward in results["rewards"]:
        assert rates[reward["name"]] == pytest.approx(reward["win_rate"], abs=1e-4)
        assert f"| {reward['name']} |" in card.text
    pictures = [entry["output"]["url"] for entry in card.data.widget] + ["images/comparison.png"]
    for path in pictures:
        with Image.open(io.BytesIO(hub.pushed[path])) as image:
            image.load()
    assert "](images/comparison.png)" in card.text
    assert "Too few to say" in card.text  # as the report says of three prompts
    assert set(hub.pushed) == {"README.md", "capo.json", *pictures}
    assert all(path in printed for path in hub.pushed)


def test_nothing_is_uploaded_without_consent(finished, hub):
    assert "comparison.png" in capo("push", finished, "owner/name", code=1).stdout  # no terminal to ask on
    capo("push", finished, "owner/name", code=1, answer="n\n")
    listed = json.loads(capo("push", finished, "owner/name", "--json").stdout)
    assert (listed["private"], listed["url"]) == (True, None)
    assert {"README.md", "capo.json"} <= {file["path"] for file in listed["files"]}
    assert (hub.pushed, hub.created) == ({}, None)


def test_a_public_repository_needs_the_option(finished, hub, tmp_path):
    commit(hub, tmp_path, SHA)
    assert "--public" in capo("push", finished, "owner/name", "--yes", code=1).stderr
    assert hub.pushed == {}
    capo("push", finished, "owner/name", "--yes", "--public")
    assert "capo.json" in hub.pushed
    assert hub.created is None


def test_a_policy_folder_has_no_results_to_push(finished, hub):
    capo("push", finished / "train/best", "owner/name", "--yes")
    assert set(hub.pushed) == {"README.md", "capo.json"}


def test_what_cannot_be_pushed_is_said_first(finished, tmp_path, monkeypatch):
    assert "not a policy" in capo("push", tmp_path, "owner/name", code=1).stderr
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in capo("push", finished, "owner/name", code=1).stderr
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "hf auth login" in capo("push", finished, "owner/name", code=1).stderr
