"""A run does not depend on the current directory, and a finished one is shown without its sources."""

import json
import shutil

import pytest
import yaml
from typer.testing import CliRunner

import fake_stages
from capo import pipeline
from capo.cli import app
from capo.recipe import load_recipe
from capo.store import Run, StaleArtifact


@pytest.fixture
def project(tmp_path):
    """A folder with a recipe and its sources, all named by relative paths."""
    folder = tmp_path / "project"
    (folder / "model/unet").mkdir(parents=True)
    (folder / "model/unet/weights.safetensors").write_bytes(b"12")
    (folder / "prompts.txt").write_text("a cat\na dog\n")
    (folder / "reward.py").write_text("")
    values = fake_stages.VALUES | {
        "model": {"checkpoint": "./model"},
        "prompts": {"source": "prompts.txt"},
        "rewards": [{"name": "mine", "command": ["python", "reward.py"], "comparison": "threshold"}],
    }
    (folder / "my.yaml").write_text("# mine\n" + yaml.safe_dump(values))
    return folder


@pytest.fixture(autouse=True)
def _fakes(monkeypatch):
    """Fake stages, whose inputs are the real ones."""
    from capo import diffusion
    from capo.rewards import resolve

    identities = diffusion.checkpoint_identity, resolve.reward_identity
    fake_stages.install(monkeypatch.setattr)
    monkeypatch.setattr(diffusion, "checkpoint_identity", identities[0])
    monkeypatch.setattr(resolve, "reward_identity", identities[1])
    monkeypatch.setattr(pipeline.preflight, "require", lambda *_: None)


def capo(*arguments, code=0):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result


def states(run):
    return {a["state"] for a in json.loads(capo("status", "--run", run, "--json").stdout)["artifacts"]}


def test_a_run_is_shown_from_anywhere_and_without_its_sources(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    capo("run", "my.yaml", "--run", "runs/first")
    run = project / "runs/first"
    assert (run / "recipe.written.yaml").read_text() == (project / "my.yaml").read_text()
    assert load_recipe(run / "recipe.yaml").model.checkpoint == str(project / "model")
    monkeypatch.chdir(tmp_path)
    assert states(run) == {"done"}
    assert "up to date" in capo("run", project / "my.yaml", "--run", run).stdout
    for name in ("prompts.txt", "reward.py"):
        (project / name).unlink()
    shutil.rmtree(project / "model")
    assert states(run) == {"done"}
    shown = {a["name"]: a for a in json.loads(capo("status", "--run", run, "--json").stdout)["artifacts"]}
    assert f"{project / 'model'} does not exist" in shown["samples"]["why"]
    assert "up to date" in capo("run", "--run", run).stdout
    capo("report", "--run", run, "--set", "report.title=Later", "--force")
    assert (run / "report/index.html").read_text() == "Later"
    assert states(run) == {"done"}


def test_a_missing_source_is_named_and_makes_nothing_stale(project, monkeypatch):
    monkeypatch.chdir(project)
    capo("run", "my.yaml", "--run", "run")
    (project / "model").rename(project / "moved")
    recipe = load_recipe("run/recipe.yaml")
    with pytest.raises(ValueError, match=r"model\.checkpoint: .*model does not exist") as error:
        pipeline.run(recipe.model_copy(update={"seed": 1}), "run", force=True)
    assert not isinstance(error.value, StaleArtifact)
    assert not (project / "run/replaced").exists()
    moved = capo("run", "--run", "run", "--set", "model.checkpoint=moved").stdout
    assert "up to date" in moved, "the same model at another place"
    assert Run("run").artifact("samples").begun()["model.checkpoint"] == str(project / "model")
