"""A whole study of a tiny SDXL model: two trained rows, a soup of them, and one that cannot work."""

import json

import pytest
import yaml
from typer.testing import CliRunner

import tiny_training
from capo import durable
from capo.cli import app
from capo.compare import load_study
from capo.compare.running import run_study
from capo.compare.runs import runs_of
from capo.durable import WorkspaceError
from capo.recipe import dump_recipe
from capo.workspace import Run

ROWS = {"capo": {"train.objective": "capo"}, "ipo": {"train.objective": "ipo", "train.beta": 200}}


@pytest.fixture(scope="module")
def file(tmp_path_factory, sdxl):
    folder = tmp_path_factory.mktemp("study")
    recipe = tiny_training.recipe(
        folder,
        sdxl,
        train={
            "steps": 2,
            "global_batch_size": 2,
            "validate_every": 1,
            "validation_prompts": {"source": "shapes:validation", "count": 1},
            "validation_samples": 1,
        },
        prompts={"source": "shapes:train", "count": 2},
        generate={"samples_per_prompt": 3, "num_inference_steps": 1, "shard_prompts": 2},
        evaluate={"prompts": {"source": "shapes:test", "count": 3}, "samples_per_prompt": 2},
    )
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    impossible = {"pairs.min_margin": 1.0, "train.objective": "dpo"}
    study = {
        "name": "tiny",
        "title": "Tiny",
        "recipe": str(folder / "recipe.yaml"),
        "seeds": [0],
        "rows": [
            {"name": "soup", "soup": ["capo", "ipo"]},
            *({"name": name, "set": own} for name, own in ROWS.items()),
            {"name": "never", "set": impossible},
        ],
        "against": "capo",
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return folder / "study.yaml"


@pytest.fixture(scope="module")
def outcome(file):
    return run_study(load_study(file), file.parent / "studies" / "tiny")


def test_rows_share_what_does_not_depend_on_what_varies(outcome):
    capo, ipo, soup = (outcome.folder / row / "seed-0" for row in ("capo", "ipo", "soup"))
    for name in ("prompts.parquet", "samples/shard-00000.parquet", "pairs.parquet"):
        assert (ipo / name).samefile(capo / name)
    for run in (ipo, soup):
        images = "baseline/images/base/shard-00000.parquet"
        assert (run / images).samefile(capo / images)
    assert not (ipo / "train/metrics.jsonl").samefile(capo / "train/metrics.jsonl")
    assert {p.name for p in soup.iterdir() if p.is_dir()} == {"manifests", "baseline", "evaluate"}
    record = json.loads((outcome.folder / "soup/soup-0/capo.json").read_text())
    assert [each["folder"] for each in record["soup"]["policies"]] == [
        str(run / "train/best") for run in (capo, ipo)
    ]


def test_a_row_that_fails_is_told_and_stops_no_other(outcome):
    assert list(outcome.failed) == ["never, seed 0"]
    assert [row["name"] for row in outcome.results["rows"]] == ["soup", "capo", "ipo"]
    for name in ("table.md", "index.html"):
        assert "never, seed 0" in (outcome.folder / name).read_text()
    assert json.loads((outcome.folder / "results.json").read_text()) == outcome.results


def test_numbers_are_those_of_the_runs(outcome):
    for row in outcome.results["rows"]:
        run = Run(outcome.folder / row["name"] / "seed-0")
        for reward in run.artefact("evaluate").read_json("results.json")["rewards"]:
            assert row["measures"][reward["name"]]["value"] == pytest.approx(reward["win_rate"])
    assert set(outcome.results["equal_drift"]["rows"]) == {"capo", "ipo"}
    spent = outcome.results["seconds_spent"]
    assert spent < sum(row["seconds"] for row in outcome.results["rows"])


def test_a_second_time_only_what_failed_is_tried(outcome, file):
    before = {p: p.stat().st_mtime_ns for p in outcome.folder.glob("*/seed-0/*/*")}
    again = run_study(load_study(file), outcome.folder)
    after = {p: p.stat().st_mtime_ns for p in outcome.folder.glob("*/seed-0/*/*")}
    assert {p for p in after if after[p] != before.get(p) and "never" not in p.parts} == set()
    assert again.results == outcome.results


def test_another_study_beside_it_takes_over_whole_rows(outcome, file):
    values = yaml.safe_load(file.read_text()) | {"name": "second", "rows": [{"name": "capo"}]}
    del values["against"]
    path = file.parent / "second.yaml"
    path.write_text(yaml.safe_dump(values))
    second = run_study(load_study(path), outcome.folder.parent / "second")
    # A row's name decides nothing but its page; this one is called as the other study's.
    assert second.results["seconds_spent"] == 0
    assert second.results["rows"][0]["measures"] == outcome.results["rows"][1]["measures"]


def test_two_processes_do_not_run_one_study(outcome, file):
    with durable.locked(outcome.folder), pytest.raises(WorkspaceError, match="in use by process"):
        run_study(load_study(file), outcome.folder)


def test_the_command_lists_runs_and_ends_with_1_when_one_failed(outcome, file):
    states = {run.row.name: run.state for run in runs_of(load_study(file), outcome.folder)}
    assert states == {"capo": "done", "ipo": "done", "never": "train is partial", "soup": "done"}
    called = CliRunner().invoke(app, ["compare", str(file), "--to", str(outcome.folder), "--list", "--json"])
    listed = {row["row"]: row["runs"] for row in json.loads(called.stdout)["rows"]}
    assert listed == {name: {"0": state} for name, state in states.items()}
    called = CliRunner().invoke(app, ["compare", str(file), "--to", str(outcome.folder)])
    assert called.exit_code == 1
    assert "1 runs failed: never, seed 0" in called.stderr
    assert "table.md" in called.stdout


def test_the_command_lists_the_shipped_studies():
    called = CliRunner().invoke(app, ["compare", "--json"])
    assert {"table1", "table2", "fig5"} <= {each["name"] for each in json.loads(called.stdout)["studies"]}
    assert CliRunner().invoke(app, ["compare", "table0"]).exit_code == 2
