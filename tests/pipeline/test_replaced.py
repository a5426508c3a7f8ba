"""What `--force` replaces is kept, comes back with the former settings, and is lost by no failure."""

import shutil
from functools import partial

import pytest

import fake_stages
from capo import pipeline
from capo.evaluation.kept_files import kept_as
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
    first, costs = contents(tmp_path), Run(tmp_path).timings()
    assert "samples" in run(tmp_path, scale=5.0)
    (replaced,) = replaced_folders(tmp_path)
    assert replaced.changes["samples"] == {"generate.guidance_scale": (7.5, 5.0)}
    assert set(replaced.changes["scores/first"]) == {"@samples"}
    assert Run(replaced.folder).timings() == {name: costs[name] for name in replaced.changes}
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


@pytest.fixture
def evaluations(monkeypatch):
    """Make the fake halves of the evaluation write images and scores; yield the files that were made."""
    made = []

    def stage(model, job):
        names = [f"images/{model}/shard-0.parquet", "judgements.parquet"]
        names += [f"scores/{model}/{reward.name}.parquet" for reward in job.recipe.rewards]
        for name in (name for name in names if not job.artifact.has(name)):
            made.append(name)
            job.artifact.write_bytes(name, name.encode())
        job.artifact.write_json("results.json", fake_stages.RESULTS)
        job.artifact.commit()

    for artifact, model in (("baseline", "base"), ("evaluate", "tuned")):
        monkeypatch.setitem(fake_stages.STAGES, artifact, partial(stage, model))
    return made


def test_an_added_reward_keeps_the_images_and_the_other_scores_of_an_evaluation(tmp_path, evaluations):
    more = [*fake_stages.VALUES["rewards"], {"name": "v1.5", "use": "evaluate"}]
    fewer = [*fake_stages.VALUES["rewards"][:2], {"name": "v1.5", "use": "evaluate"}]
    first = parse_recipe(fake_stages.VALUES)
    pipeline.run(first, tmp_path / "run")
    for rewards, new in ((more, ["v1.5"]), (fewer, [])):
        changed = parse_recipe(fake_stages.VALUES | {"rewards": rewards})
        evaluations.clear()
        pipeline.run(changed, tmp_path / "run", force=True)
        assert evaluations == [f"scores/{model}/{r}.parquet" for model in ("base", "tuned") for r in new]
        pipeline.run(changed, tmp_path / "fresh", force=True)
        for half in ("baseline", "evaluate"):  # as if everything had been made again
            assert contents(tmp_path / "run" / half) == contents(tmp_path / "fresh" / half)
        shutil.rmtree(tmp_path / "fresh")


def test_only_what_is_reused_is_reported(tmp_path, evaluations, capsys, monkeypatch):
    monkeypatch.setenv("CAPO_QUIET", "0")
    pipeline.run(parse_recipe(fake_stages.VALUES), tmp_path)
    for image in tmp_path.glob("*/images/*/shard-0.parquet"):
        image.write_bytes(image.read_bytes()[::-1])
    capsys.readouterr()
    fewer = parse_recipe(fake_stages.VALUES | {"rewards": fake_stages.VALUES["rewards"][:2]})
    pipeline.run(fewer, tmp_path, force=True)
    shown = capsys.readouterr().err
    assert "is damaged" in shown
    assert "files of images" not in shown


def test_a_failure_after_files_were_kept_changes_nothing(tmp_path, monkeypatch, evaluations):
    pipeline.run(parse_recipe(fake_stages.VALUES), tmp_path)
    before = contents(tmp_path)
    changed = parse_recipe(fake_stages.VALUES | {"rewards": fake_stages.VALUES["rewards"][:2]})
    monkeypatch.setitem(fake_stages.STAGES, "baseline", lambda job: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pipeline.run(changed, tmp_path, stage="evaluate", force=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("changed", "kept"),
    [
        ({"rewards.v1.weights"}, {"images/base/s", "judgements.parquet", "scores/base/v1.5.parquet"}),
        ({"rewards.v1.weight"}, {"images/base/s", "judgements.parquet", "scores/base/v1.5.parquet",
                                 "scores/base/v1.parquet"}),
        ({"evaluate.judge"}, {"images/base/s", "scores/base/v1.5.parquet", "scores/base/v1.parquet"}),
        ({"rewards.v1.weights", "seed"}, set()),
        ({"@train"}, set()),
    ],
)  # fmt: skip
def test_only_files_that_do_not_depend_on_a_change_are_kept(changed, kept):
    files = {"images/base/s", "judgements.parquet", "scores/base/v1.parquet", "scores/base/v1.5.parquet",
             "results.json", "parts/v1/images/base/s"}  # fmt: skip
    assert {file for file in files if kept_as(file, changed)} == kept


def test_what_was_replaced_is_used_only_if_it_is_whole(tmp_path):
    run(tmp_path)
    run(tmp_path, scale=5.0)
    (replaced,) = replaced_folders(tmp_path)
    (replaced.folder / "samples/shard-0").write_bytes(b"7.6 0")
    shutil.rmtree(replaced.folder / "scores/first")
    assert {"samples", "scores/first"} <= set(run(tmp_path))
