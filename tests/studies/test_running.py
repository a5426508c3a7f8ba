"""A whole study of a tiny SDXL model: two trained rows, their soup, and a row that always fails."""

import json
import os
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import tiny_training
from capo.cli import app
from capo.diffusion.saved import find_policy
from capo.engine.launch import LaunchError
from capo.recipe import dump_recipe, load_recipe
from capo.store import Run, WorkspaceError
from capo.store.lock import hold_lock
from capo.studies import StudyError, load_study
from capo.studies.commands import run_command
from capo.studies.record_file import read_record
from capo.studies.run_study import run_study
from capo.studies.study import Row
from capo.studies.study_run import StudyRun, runs_of

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


def test_rows_share_artifacts_that_do_not_differ(outcome):
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


def test_a_failing_row_is_reported_and_does_not_stop_others(outcome):
    assert list(outcome.failed) == ["never, seed 0"]
    assert [row["name"] for row in outcome.results["rows"]] == ["soup", "capo", "ipo"]
    for name in ("table.md", "index.html"):
        assert "never, seed 0" in (outcome.folder / name).read_text()
    assert json.loads((outcome.folder / "results.json").read_text()) == outcome.results


def test_numbers_equal_those_of_the_runs(outcome):
    for row in outcome.results["rows"]:
        run = Run(outcome.folder / row["name"] / "seed-0")
        for reward in run.artifact("evaluate").read_json("results.json")["rewards"]:
            assert row["measures"][reward["name"]]["value"] == pytest.approx(reward["win_rate"])
    assert set(outcome.results["equal_drift"]["rows"]) == {"capo", "ipo"}
    spent = outcome.results["seconds_spent"]
    assert spent < sum(row["seconds"] for row in outcome.results["rows"])


def test_a_rerun_retries_only_failed_rows(outcome, file):
    before = {p: p.stat().st_mtime_ns for p in outcome.folder.glob("*/seed-0/*/*")}
    again = run_study(load_study(file), outcome.folder)
    after = {p: p.stat().st_mtime_ns for p in outcome.folder.glob("*/seed-0/*/*")}
    assert {p for p in after if after[p] != before.get(p) and "never" not in p.parts} == set()
    assert again.results == outcome.results


def test_a_moved_study_stays_done(outcome, file, tmp_path, monkeypatch):
    """However its folder is spelled; the soup row evaluates a policy by its path."""
    moved = shutil.copytree(outcome.folder, tmp_path / "moved", copy_function=os.link)
    monkeypatch.chdir(tmp_path)
    for folder in (moved, Path("moved"), Path("../") / tmp_path.name / "moved"):
        states = {run.row.name: run.state for run in runs_of(load_study(file), folder)}
        assert {name: states[name] for name in ("capo", "ipo", "soup")} == dict.fromkeys(
            ("capo", "ipo", "soup"), "done"
        )


def test_a_neighboring_study_reuses_whole_rows(outcome, file):
    values = yaml.safe_load(file.read_text()) | {"name": "second", "rows": [{"name": "capo"}]}
    del values["against"]
    path = file.parent / "second.yaml"
    path.write_text(yaml.safe_dump(values))
    second = run_study(load_study(path), outcome.folder.parent / "second")
    # A row's name matters only on its page; this one has the name of the other study's row.
    assert second.results["seconds_spent"] == 0
    assert second.results["rows"][0]["measures"] == outcome.results["rows"][1]["measures"]


def test_two_processes_do_not_run_one_seed(outcome, file):
    refused = pytest.raises(WorkspaceError, match="in use by process")
    with hold_lock(outcome.folder / ".lock-seed-0"), refused:
        run_study(load_study(file), outcome.folder)


@pytest.fixture
def shared(outcome, file, tmp_path):
    """Run the trained rows with a second seed, in a folder where the first seed is done."""
    values = yaml.safe_load(file.read_text()) | {"seeds": [0, 1]}
    values["rows"] = [row for row in values["rows"] if row["name"] in ROWS]
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(values))
    folder = shutil.copytree(outcome.folder, tmp_path / "tiny", copy_function=os.link)
    for name in ("never", "soup"):
        shutil.rmtree(folder / name)
    for name in ("results.json", "table.md", "index.html"):
        (folder / name).unlink()
    return path, folder


def test_some_seeds_run_and_the_table_covers_finished_runs(shared, outcome):
    path, folder = shared
    (folder / "study.yaml").unlink()
    (folder / "study.yaml").write_text("name: as an older version wrote it\n")
    called = CliRunner().invoke(app, ["compare", str(path), "--to", str(folder), "--seeds", "0"])
    assert called.exit_code == 0, called.output
    missing = "seed 1: all rows"
    assert missing in called.stdout
    for name in ("table.md", "index.html"):
        assert missing in (folder / name).read_text()
    assert "scores.svg" in {path.name for path in (folder / "figures").iterdir()}
    found = json.loads((folder / "results.json").read_text())
    assert found["seeds"] == [0]
    assert found["rows"] == outcome.results["rows"][1:]
    assert load_study(folder / "study.yaml") == load_study(path)


def test_an_interrupted_study_writes_its_table(shared, monkeypatch):
    path, folder = shared
    (folder / "ipo/seed-0/manifests/report.json").unlink()

    def interrupted(run, force):
        raise KeyboardInterrupt

    monkeypatch.setattr("capo.studies.run_missing._run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_study(load_study(path), folder)
    found = json.loads((folder / "results.json").read_text())
    assert [row["name"] for row in found["rows"]] == ["capo"]
    assert "seed 0: ipo (report is partial); seed 1: all rows" in (folder / "table.md").read_text()
    with pytest.raises(StudyError, match="study tiny has no seed 2; its seeds are 0, 1"):
        run_study(load_study(path), folder, seeds=[0, 2])


def test_tables_survive_the_removal_of_run_directories(shared, outcome):
    path, folder = shared
    whole = run_study(load_study(path), folder, seeds=[0]).results
    for row in ROWS:
        shutil.rmtree(folder / row / "seed-0")
    assert [run.state for run in runs_of(load_study(path).only([0]), folder)] == ["done", "done"]
    assert run_study(load_study(path), folder, seeds=[0]).results == whole
    page = (folder / "index.html").read_text()
    assert 'href="capo/seed-0' not in page
    assert "seed 0" in page
    listed = CliRunner().invoke(app, ["compare", str(path), "--to", str(folder), "--list", "--json"])
    assert [row["runs"]["0"] for row in json.loads(listed.stdout)["rows"]] == ["kept", "kept"]

    other = yaml.safe_load(path.read_text()) | {"set": {"train.max_grad_norm": 0.5}}
    path.write_text(yaml.safe_dump(other))
    assert [run.state for run in runs_of(load_study(path).only([0]), folder)] == ["missing", "missing"]


def test_records_of_another_study_are_reused_unless_a_soup_needs_the_run(
    outcome, file, tmp_path, capsys, monkeypatch
):
    """Row names do not matter. Only the soup `again` was made elsewhere; `mixed` needs the policies."""
    first = shutil.copytree(outcome.folder, tmp_path / "first", copy_function=os.link)
    for row in ("capo", "ipo", "soup"):
        shutil.rmtree(first / row / "seed-0")
    values = yaml.safe_load(file.read_text()) | {"name": "second", "against": "left"}
    soups = [
        {"name": "again", "soup": ["left", "right"]},
        {"name": "mixed", "soup": ["left", "right"], "weights": [3, 1]},
    ]
    values["rows"] = [{"name": "left", "set": ROWS["capo"]}, {"name": "right", "set": ROWS["ipo"]}, soups[0]]
    path = tmp_path / "second.yaml"
    path.write_text(yaml.safe_dump(values))
    results = run_study(load_study(path), tmp_path / "second").results
    assert results["seconds_spent"] == 0
    expected = {row["name"]: row["measures"] for row in outcome.results["rows"]}
    found = {row["name"]: row["measures"] for row in results["rows"]}
    assert found == {"left": expected["capo"], "right": expected["ipo"], "again": expected["soup"]}

    shutil.rmtree(tmp_path / "second")
    (first / "capo/seed-1.json").write_text("{}")
    monkeypatch.setenv("CAPO_QUIET", "0")
    path.write_text(yaml.safe_dump(values | {"rows": [*values["rows"], soups[1]]}))
    whole = run_study(load_study(path), tmp_path / "second")
    there = {row.name: (whole.folder / row.name / "seed-0").exists() for row in load_study(path).rows}
    assert there == {"left": True, "right": True, "again": False, "mixed": True}
    assert "Record not reused" in capsys.readouterr().err


def test_a_soup_with_removed_policies_names_the_remedy(shared, file):
    path, folder = shared
    run_study(load_study(path), folder, seeds=[0])
    shutil.rmtree(folder / "ipo/seed-0")
    failed = run_study(load_study(file), folder).failed["soup, seed 0"]
    assert failed.startswith(f"needs {folder / 'ipo/seed-0'}, which was removed; ")


def test_a_finished_soup_stays_finished_without_its_policies(outcome, file, tmp_path):
    folder = shutil.copytree(outcome.folder, tmp_path / "tiny", copy_function=os.link)
    for row in ROWS:
        shutil.rmtree(folder / row / "seed-0")
    assert {run.row.name: run.state for run in runs_of(load_study(file), folder)}["soup"] == "done"
    again = run_study(load_study(file), folder)
    assert list(again.failed) == ["never, seed 0"]
    assert again.results["rows"] == outcome.results["rows"]
    values = yaml.safe_load(file.read_text())
    values["rows"][1]["set"] = {"train.max_grad_norm": 0.5}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    states = {run.row.name: run.state for run in runs_of(load_study(tmp_path / "study.yaml"), folder)}
    assert states["soup"] == "stale", "its policies would be others"


def test_a_finished_soup_stays_finished_without_its_own_policy(outcome, file, tmp_path):
    policy = outcome.folder / "soup/soup-0"
    policy.rename(tmp_path / "removed")
    try:
        states = {run.row.name: run.state for run in runs_of(load_study(file), outcome.folder)}
    finally:
        (tmp_path / "removed").rename(policy)
    assert states["soup"] == "done"


@pytest.mark.parametrize(
    ("text", "why"), [(lambda record: "{}", "not the record of a run"), (None, "damaged .*digest")]
)
def test_a_damaged_record_fails_its_row_alone(outcome, file, tmp_path, text, why):
    folder = shutil.copytree(outcome.folder, tmp_path / "tiny", copy_function=os.link)
    shutil.rmtree(folder / "ipo/seed-0")
    record = folder / "ipo/seed-0.json"
    damaged = (text or _with_another_step)(record)
    record.unlink()
    record.write_text(damaged)
    (folder / "capo/seed-0.json").unlink()
    (folder / "capo/seed-0.json").write_bytes(b"\xff")
    again = run_study(load_study(file), folder)
    assert re.search(rf"ipo/seed-0.json: {why}", again.failed["ipo, seed 0"])
    assert [row["name"] for row in again.results["rows"]] == ["soup", "capo"]
    assert read_record(folder / "capo/seed-0.json"), "written again, since the run directory exists"
    listed = CliRunner().invoke(app, ["compare", str(file), "--to", str(folder), "--list", "--json"])
    assert {row["row"]: row["runs"]["0"] for row in json.loads(listed.stdout)["rows"]}["ipo"] == "unreadable"
    assert listed.exit_code == 1
    assert f"1 run cannot be read:\n  {record}: " in listed.stderr


def test_a_damaged_run_directory_fails_its_row_alone(outcome, file, tmp_path):
    """Its manifest, which rows also read to reuse what it made; and its scores, which only figures show."""
    folder = shutil.copytree(outcome.folder, tmp_path / "tiny", copy_function=os.link)
    for damaged in ("ipo/seed-0/manifests/samples.json", "ipo/seed-0/evaluate/results.json"):
        content = (folder / damaged).read_bytes()
        (folder / damaged).unlink()
        (folder / damaged).write_bytes(bytes(len(content)))
        again = run_study(load_study(file), folder)
        assert set(again.failed) == {"ipo, seed 0", "never, seed 0"}
        assert damaged in again.failed["ipo, seed 0"]
        assert [row["name"] for row in again.results["rows"]] == ["soup", "capo"]
        (folder / damaged).write_bytes(content)
    scores = folder / "capo/seed-0/pairs.parquet"
    content = scores.read_bytes()
    scores.unlink()
    scores.write_bytes(bytes(len(content)))
    assert run_study(load_study(file), folder).results["rows"] == outcome.results["rows"]


def _with_another_step(record):
    values = json.loads(record.read_text())
    return json.dumps(values | {"step": values["step"] + 1})


def test_a_soup_of_retrained_policies_is_stale(tmp_path):
    def policy(folder, **record):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "capo.json").write_text(json.dumps({"adaptation": "full", **record}))

    recipe = load_recipe("shapes")
    run = StudyRun(Row("both", {}, None, ("a", "b")), 0, tmp_path, recipe)
    for directory in run.ingredients:
        policy(directory / "train/best", trained="once")
    sources = [{"identity": find_policy(directory).identity} for directory in run.ingredients]
    made = {"policies": sources, "weights": [1.0, 1.0], "interpolation": "slerp"}
    policy(run.soup, soup=made)
    assert run.merged
    assert not replace(run, row=replace(run.row, interpolation="linear")).merged
    policy(run.ingredients[0] / "train/best", trained="again")
    assert run.state == "stale"


def test_a_launcher_is_rejected(monkeypatch, file, tmp_path):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LaunchError, match="a study runs in one process"):
        run_study(load_study(file), tmp_path)


def test_a_run_made_by_the_run_command_is_the_same(file, tmp_path):
    study = load_study(file)
    for run in runs_of(study, tmp_path):
        if not run.row.soup:
            settings = study.run_settings(run.row, run.seed, run.folder)
            words = shlex.split(run_command(study.recipe, settings, run.directory))
            assert words[:2] + words[-2:] == ["capo", "run", "--run", str(run.directory)]
            assert load_recipe(words[2], words[4:-2:2]) == run.trained


def test_the_command_lists_runs_and_ends_with_1_when_one_failed(outcome, file):
    states = {run.row.name: run.state for run in runs_of(load_study(file), outcome.folder)}
    assert states == {"capo": "done", "ipo": "done", "never": "train is partial", "soup": "done"}
    called = CliRunner().invoke(app, ["compare", str(file), "--to", str(outcome.folder), "--list", "--json"])
    rows = json.loads(called.stdout)["rows"]
    assert {row["row"]: row["runs"] for row in rows} == {name: {"0": state} for name, state in states.items()}
    assert [row["row"] for row in rows if row["commands"]["0"] is None] == ["soup"]
    called = CliRunner().invoke(app, ["compare", str(file), "--to", str(outcome.folder)])
    assert called.exit_code == 1
    assert "1 run failed: never, seed 0" in called.stderr
    assert "table.md" in called.stdout


def test_the_command_lists_the_shipped_studies():
    called = CliRunner().invoke(app, ["compare", "--json"])
    assert {"table1", "table2", "fig5"} <= {each["name"] for each in json.loads(called.stdout)["studies"]}
    assert CliRunner().invoke(app, ["compare", "table0"]).exit_code == 2
