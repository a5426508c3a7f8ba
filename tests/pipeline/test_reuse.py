"""Artifacts that are reused from another run."""

import json
import os

import pytest

import fake_stages
from capo import pipeline
from capo.recipe import parse_recipe
from capo.store import Run
from capo.store.manifest import SEAL

SHARED = ["prompts", "samples", "scores/first", "scores/second", "scores/held-out", "baseline"]


@pytest.fixture(autouse=True)
def _fakes(monkeypatch):
    fake_stages.install(monkeypatch.setattr)


def recipe(**train):
    return parse_recipe(fake_stages.VALUES | {"train": {"beta": 300, **train}})


def run(directory, *donors, **train):
    fake_stages.calls.clear()
    return pipeline.run(recipe(**train), directory, donors=donors)


def contents(directory):
    """All files of a run except its timings, and what a kill after the last commit leaves.

    A command that has nothing to make does not write, so the next one that does removes these.
    """
    left_out = (".lock", "timings.jsonl", ".capo-tmp-timings.jsonl", "report.written.jsonl")
    files = (p for p in directory.rglob("*") if p.is_file() and p.name not in left_out)
    return {p.relative_to(directory): p.read_bytes() for p in files}


def test_artifacts_with_equal_inputs_are_linked_and_the_rest_is_made(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    run(first)
    result = run(second, first, steps=5)
    assert fake_stages.calls == ["train", "evaluate", "report"]
    assert [s.name for s in result.stages if s.skipped] == [*SHARED[:5], "pairs", "baseline"]
    for name in ("samples/shard-0", "pairs.parquet", "baseline/judgements.json"):
        assert (second / name).samefile(first / name)
    assert {s.state for s in pipeline.status(recipe(steps=5), second)} == {"done"}
    run(tmp_path / "alone", steps=5)
    assert contents(second) == contents(tmp_path / "alone"), "as if nothing had been reused"
    timings = Run(second).timings()
    assert timings["samples"]["shared"] == str(first)
    assert timings["samples"]["seconds"] == Run(first).timings()["samples"]["seconds"]
    assert "shared" not in timings["train"]


def test_a_null_field_equals_a_missing_one(tmp_path):
    """Artifacts made before the recipe had the field are reused too."""
    first, second = tmp_path / "first", tmp_path / "second"
    run(first)
    for place in (first / "manifests").glob("samples*.json"):
        record = json.loads(place.read_text(encoding="utf-8"))
        assert record["inputs"].pop("generate.adaptive") is None
        del record[SEAL]  # nor had they a digest of their own
        place.write_text(json.dumps(record), encoding="utf-8")
    run(second, first)
    assert fake_stages.calls == []
    assert {s.state for s in pipeline.status(recipe(), second)} == {"done"}


def test_removing_or_remaking_a_reused_artifact_keeps_the_original(tmp_path):
    run(tmp_path / "first")
    before = contents(tmp_path / "first")
    run(tmp_path / "second", tmp_path / "first")
    pipeline.run(recipe().model_copy(update={"seed": 7}), tmp_path / "second", force=True)
    assert contents(tmp_path / "first") == before


def test_artifacts_are_copied_if_links_are_impossible(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError("no links here")

    run(tmp_path / "first")
    monkeypatch.setattr(os, "link", refused)
    run(tmp_path / "second", tmp_path / "first")
    assert fake_stages.calls == []
    sample = tmp_path / "second/samples/shard-0"
    assert sample.read_bytes() == (tmp_path / "first/samples/shard-0").read_bytes()
    assert not sample.samefile(tmp_path / "first/samples/shard-0")


def test_a_damaged_original_is_not_reused(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CAPO_QUIET", "0")
    run(tmp_path / "first")
    damaged = tmp_path / "first/samples/shard-0"
    damaged.write_bytes(bytes(len(damaged.read_bytes())))
    run(tmp_path / "second", tmp_path / "first")
    assert "samples" in fake_stages.calls
    assert "samples: not reused from" in capsys.readouterr().err
    damaged.unlink()
    run(tmp_path / "third", tmp_path / "first")
    assert "samples" in fake_stages.calls
    manifest = tmp_path / "first/manifests/scores/first.json"
    manifest.write_text("{")
    run(tmp_path / "fourth", tmp_path / "first")
    assert {"samples", "scores/first"} <= set(fake_stages.calls)
    assert (
        f"scores/first: not reused from {tmp_path / 'first'}: {manifest} is damaged"
        in capsys.readouterr().err
    )
