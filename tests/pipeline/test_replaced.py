"""What `--force` replaces is kept, comes back with the former settings, and is lost by no failure."""

import shutil

import pytest

import fake_stages
from capo import pipeline
from capo.recipe import load_recipe, parse_recipe
from capo.store import Run, StaleArtifact
from capo.store.replaced import replaced_folders


@pytest.fixture(autouse=True)
def _fakes(monkeypatch):
    fake_stages.install(monkeypatch.setattr)


def recipe(scale=7.5, **train):
    values = {"generate": {"guidance_scale": scale}, "train": {"beta": 300, **train}}
    return parse_recipe(fake_stages.VALUES | values)


def run(directory, *, stage=None, **settings):
    fake_stages.calls.clear()
    pipeline.run(recipe(**settings), directory, stage=stage, force=True)
    return list(fake_stages.calls)


def contents(directory):
    """All files but those that name times, by path."""
    files = (p for p in directory.rglob("*") if p.is_file() and p.name not in (".lock", "timings.jsonl"))
    relative = {p.relative_to(directory): p.read_bytes() for p in files}
    return {path: data for path, data in relative.items() if path.parts[0] != "replaced"}


def test_former_settings_bring_back_everything_without_work(tmp_path):
    run(tmp_path)
    first = contents(tmp_path)
    assert "samples" in run(tmp_path, scale=5.0)
    (replaced,) = replaced_folders(tmp_path)
    assert replaced.changes["samples"] == {"generate.guidance_scale": (7.5, 5.0)}
    assert set(replaced.changes["scores/first"]) == {"@samples"}
    assert load_recipe(replaced.folder / "recipe.yaml") == recipe()
    assert Run(replaced.folder).artifact("samples").done
    with pytest.raises(StaleArtifact):
        pipeline.run(recipe(), tmp_path)
    assert run(tmp_path) == []
    assert contents(tmp_path) == first
    assert len(replaced_folders(tmp_path)) == 2


@pytest.mark.parametrize("error", [ValueError("33 is not a multiple of 8"), KeyboardInterrupt()])
def test_a_replacement_that_fails_before_its_first_file_changes_nothing(tmp_path, monkeypatch, error):
    run(tmp_path)
    before = contents(tmp_path)

    def fail(job):
        assert not job.artifact.files()
        (job.artifact.folder / "empty/folder").mkdir(parents=True)
        raise error

    for name, stage, change in (("samples", "generate", {"scale": 5.0}), ("train", None, {"beta": 5})):
        with monkeypatch.context() as patch:
            patch.setitem(fake_stages.STAGES, name, fail)
            with pytest.raises(type(error)):
                run(tmp_path, stage=stage, **change)
        assert contents(tmp_path) == before
        assert not (tmp_path / "replaced").exists()
        assert {state.state for state in pipeline.status(recipe(), tmp_path)} == {"done"}


def test_a_replacement_that_fails_later_keeps_the_former_artifact(tmp_path, monkeypatch):
    run(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="expected 4 scores"):
        run(tmp_path, objective="dpo")
    (replaced,) = replaced_folders(tmp_path)
    assert list(replaced.changes) == ["train"]
    assert run(tmp_path) == []
    assert contents(tmp_path) == before


def test_a_partial_artifact_is_kept_too_and_resumed(tmp_path):
    with pytest.raises(ValueError, match="expected 4 scores"):
        run(tmp_path, objective="dpo")
    run(tmp_path, steps=5)
    (replaced,) = replaced_folders(tmp_path)
    kept = Run(replaced.folder).artifact("train")
    assert kept.read_json("state.json") == {"step": 1}
    assert not kept.done


def test_settings_may_change_while_nothing_was_made(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(fake_stages.STAGES, "train", lambda job: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pipeline.run(recipe(), tmp_path)
    assert {s.name: s.state for s in pipeline.status(recipe(beta=5), tmp_path)}["train"] == "missing"
    pipeline.run(recipe(beta=5), tmp_path)
    assert not (tmp_path / "replaced").exists()


def test_what_was_replaced_is_used_only_if_it_is_whole(tmp_path):
    run(tmp_path)
    run(tmp_path, scale=5.0)
    (replaced,) = replaced_folders(tmp_path)
    (replaced.folder / "samples/shard-0").write_bytes(b"7.6 0")
    shutil.rmtree(replaced.folder / "scores/first")
    assert {"samples", "scores/first"} <= set(run(tmp_path))
