"""Rows of a study that continue other rows, on a tiny SDXL model."""

import json
import os
import shutil

import pytest
import yaml

import tiny_training
from capo.recipe import dump_recipe
from capo.reporting.templating import environment
from capo.store import Run
from capo.studies import StudyError, load_study
from capo.studies.curve_plots import validation_curves
from capo.studies.measure_names import MEAN
from capo.studies.run_study import run_study
from capo.studies.study_run import runs_of

ROWS = [
    {"name": "soup", "soup": ["once", "third"]},
    {"name": "third", "start": "twice", "set": {"start.reference": "start"}},
    {"name": "twice", "start": "once"},
    {"name": "moved", "start": "once", "set": {"start.reference": "start"}},
    {"name": "once"},
]


def study_file(folder, sdxl, rows):
    train = {"steps": 2, "global_batch_size": 2, "validate_every": 1, "validation_samples": 1}
    recipe = tiny_training.recipe(
        folder,
        sdxl,
        train=train | {"validation_prompts": {"source": "shapes:validation", "count": 1}},
        prompts={"source": "shapes:train", "count": 2},
        generate={"samples_per_prompt": 3, "num_inference_steps": 1, "shard_prompts": 2},
        evaluate={"prompts": {"source": "shapes:test", "count": 2}, "samples_per_prompt": 2},
    )
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    study = {
        "name": "tiny",
        "title": "Tiny",
        "recipe": str(folder / "recipe.yaml"),
        "seeds": [0],
        "rows": rows,
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return folder / "study.yaml"


@pytest.fixture(scope="module")
def file(tmp_path_factory, sdxl):
    return study_file(tmp_path_factory.mktemp("rounds"), sdxl, ROWS)


@pytest.fixture(scope="module")
def outcome(file):
    return run_study(load_study(file), file.parent / "studies" / "tiny")


def test_rounds_come_after_their_start_and_soups_last(file):
    runs = runs_of(load_study(file), file.parent)
    assert [run.row.name for run in runs] == ["once", "twice", "moved", "third", "soup"]
    third = next(run for run in runs if run.row.name == "third")
    assert third.trained.start.run == str(file.parent / "twice/seed-0")
    assert third.before == (file.parent / "twice/seed-0", file.parent / "once/seed-0")
    assert [run.state for run in runs] == ["missing"] * 5


def test_a_round_continues_the_run_of_its_row(outcome, file):
    assert outcome.failed == {}
    records = {
        row["name"]: json.loads((outcome.folder / row["name"] / "seed-0/train/best/capo.json").read_text())
        for row in ROWS
        if "soup" not in row
    }
    assert {name: record.get("round", 1) for name, record in records.items()} == {
        "once": 1,
        "twice": 2,
        "moved": 2,
        "third": 3,
    }
    twice, moved = (outcome.folder / row / "seed-0" for row in ("twice", "moved"))
    for name in ("pool/red.parquet", "samples/shard-00000.parquet", "pairs.parquet"):
        assert (twice / name).samefile(moved / name), "only their reference differs"
    assert {run.state for run in runs_of(load_study(file), outcome.folder)} == {"done"}


def test_the_cost_of_a_round_includes_earlier_rounds(outcome):
    rows = {row["name"]: row for row in outcome.results["rows"]}
    seconds = rows["third"]["seeds"][0]["seconds"]
    assert {"train", "twice: train", "once: train", "once: samples"} <= seconds.keys()
    assert not any("evaluate" in name or "baseline" in name for name in seconds if ":" in name)
    assert rows["third"]["seconds"] > sum(v for name, v in seconds.items() if ":" in name)


def test_a_further_round_does_not_start_at_the_base(outcome):
    assert outcome.results["equal_drift"] is None
    curves = {row["name"]: row["curves"] for row in outcome.results["rows"] if row["curves"]}
    assert {name: of[0]["steps"][0] for name, of in curves.items()} == {
        "once": 1, "twice": 0, "moved": 0, "third": 0,
    }  # fmt: skip
    start = Run(outcome.folder / "twice/seed-0").artifact("train").read_json_lines("validation.jsonl")[0]
    assert curves["twice"][0]["measures"][MEAN][0] == start["win_rate"]
    (steps,), (drift,) = (validation_curves(curves, MEAN, "once", x) for x in ("steps", "drift"))
    assert [key.label for key in steps.keys] == ["once", "third", "twice", "moved"]
    assert [key.label for key in drift.keys] == ["once"]


def test_pages_name_the_start_of_a_round(outcome):
    assert "continues once; start.reference=start" in (outcome.folder / "table.md").read_text()
    page = (outcome.folder / "third/seed-0/report/index.html").read_text()
    start = environment().filters["e"](str(outcome.folder / "twice/seed-0"))
    assert start in page


def test_a_finished_round_stays_finished_without_earlier_ones(outcome, file, tmp_path):
    folder = shutil.copytree(outcome.folder, tmp_path / "tiny", copy_function=os.link)
    for row in ("once", "twice"):
        shutil.rmtree(folder / row / "seed-0")
    assert {run.state for run in runs_of(load_study(file), folder)} == {"done"}
    again = run_study(load_study(file), folder)
    assert again.failed == {}
    assert again.results == outcome.results


def test_a_round_whose_start_has_failed_fails_with_it(file, tmp_path, outcome):
    values = yaml.safe_load(file.read_text())
    impossible = {"pairs.min_margin": 1.0, "train.objective": "dpo"}
    values["rows"] = [
        {"name": "never", "set": impossible},
        {"name": "then", "start": "never"},
        {"name": "once"},
    ]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    found = run_study(load_study(tmp_path / "study.yaml"), outcome.folder.parent / "failing")
    assert list(found.failed) == ["never, seed 0", "then, seed 0"]
    assert "not a run directory with a finished training" in found.failed["then, seed 0"]
    shutil.rmtree(found.folder)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"name": "a"}, {"name": "b", "start": "c"}], "rows.b.start: no trained row 'c'"),
        (
            [{"name": "a", "start": "b"}, {"name": "b", "start": "a"}],
            "rows.a.start: the row starts",
        ),
        ([{"name": "a", "start": "a"}], "rows.a.start: the row starts"),
        (
            [{"name": "a"}, {"name": "b"}, {"name": "s", "soup": ["a", "b"], "start": "a"}],
            "rows.s.start: a soup is not trained",
        ),
        (
            [{"name": "a"}, {"name": "b"}, {"name": "s", "soup": ["a", "b"]}, {"name": "c", "start": "s"}],
            "rows.c.start: no trained row 's'",
        ),
        ([{"name": "a", "set": {"start.run": "x"}}], "set: the study itself sets start.run"),
        ([{"name": "a", "set": {"start.reference": "base"}}], "start.run: missing"),
    ],
)
def test_invalid_starts_are_named(tmp_path, sdxl, rows, message):
    with pytest.raises(StudyError, match=message):
        load_study(study_file(tmp_path, sdxl, rows))
