"""A whole sweep of a tiny SDXL model: two values, and one that falls behind."""

import copy
import json
import os
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import tiny_training
from capo import pipeline
from capo.cli import app
from capo.cost.plan import Stage
from capo.engine.events import ValidationStep, calling
from capo.recipe import dump_recipe, load_recipe
from capo.reporting import axes
from capo.store import Run
from capo.training.guards import TrainingDiverged
from capo.tuning import run_sweep as module
from capo.tuning import sweep_cost
from capo.tuning.run_sweep import run_sweep
from capo.tuning.sweep import Sweep, value_folder
from capo.tuning.sweep_page import render_sweep
from capo.tuning.value_trial import finished_trial, read_trial

BEHIND = 400.0
VALUES = (100.0, 50.0, BEHIND)


@pytest.fixture(scope="module")
def file(tmp_path_factory, sdxl):
    folder = tmp_path_factory.mktemp("sweep")
    train = {
        "steps": 2,
        "global_batch_size": 2,
        "validate_every": 1,
        "validation_prompts": {"source": "shapes:validation", "count": 2},
        "validation_samples": 1,
    }
    recipe = tiny_training.recipe(
        folder,
        sdxl,
        train=train,
        prompts={"source": "shapes:train", "count": 2},
        generate={"samples_per_prompt": 3, "num_inference_steps": 1, "shard_prompts": 2},
    )
    path = folder / "mine.yaml"
    path.write_text("# My model\n" + dump_recipe(recipe).replace("beta: 100.0", "beta: 100.0 # to tune"))
    return path


def ended(trial, others, step, last):
    """Stop one of the values at its first step."""
    return "2.0 ± 0.5 points behind" if trial.beta == BEHIND and step > 0 else None


@pytest.fixture(scope="module")
def outcome(file):
    """A sweep that is interrupted in its last value, and resumed."""
    sweep, directory = Sweep(load_recipe(file), VALUES), file.parent / "run"
    seen = []

    def interrupt(event):
        if isinstance(event, ValidationStep):
            seen.append(event.step)
            if seen == [0, 1, 2, 0, 1, 0, 1]:
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "falls_behind", ended)
        with pytest.raises(KeyboardInterrupt), calling([interrupt]):
            run_sweep(sweep, directory)
        return run_sweep(sweep, directory)


def endings(results):
    return {value["beta"]: value["ending"] for value in results["values"]}


def test_values_share_everything_but_their_training(outcome):
    run, ours = outcome.directory, value_folder(outcome.directory, 50.0)
    for name in ("prompts.parquet", "samples/shard-00000.parquet", "validation/prompts.parquet"):
        assert (run / name).samefile(ours / name)
    assert not (run / "train").exists()
    assert Run(ours).artifact("train").begun()["train.beta"] == 50.0
    assert not (run / "evaluate").exists()
    assert not (ours / "baseline").exists()


def test_an_interrupted_sweep_equals_an_uninterrupted_one(outcome, file):
    recipe, folder = Sweep(load_recipe(file), VALUES).of(50.0), file.parent / "again"
    pipeline.run(recipe, folder, within=(*module.SHARED, "train"), donors=[outcome.directory])
    resumed, whole = read_trial(recipe, value_folder(outcome.directory, 50.0)), read_trial(recipe, folder)
    assert [row.step for row in whole.course] == [1, 2]
    for ours, theirs in zip(resumed.course, whole.course, strict=True):
        assert ours.drift == theirs.drift
        np.testing.assert_array_equal(ours.training, theirs.training)


def test_numbers_equal_those_of_the_trainings(outcome):
    for value in outcome.results["values"]:
        train = Run(value_folder(outcome.directory, value["beta"])).artifact("train")
        if value["ending"] != "done":
            assert [row["step"] for row in value["course"]] == [1]
            continue
        logged = {row["step"]: row for row in train.read_json_lines("validation.jsonl")}
        for row in value["course"]:
            expected = logged[row["step"]]
            assert row["win_rate"]["value"] == pytest.approx(expected["win_rate"])
            assert row["win_rate"]["error"] == pytest.approx(expected["standard_error"])
            for name, rate in row["rewards"].items():
                assert rate["value"] == pytest.approx(expected[f"win_rate/{name}"])
        assert value["best"]["step"] == train.summary["best_step"]


def test_stopped_values_stay_stopped_and_can_be_resumed(outcome, file, monkeypatch):
    assert endings(outcome.results) == {50: "done", 100: "done", BEHIND: "behind"}
    monkeypatch.setattr(module, "_train", lambda *_: pytest.fail("trained again"))
    sweep = Sweep(load_recipe(file), VALUES)
    assert run_sweep(sweep, outcome.directory).results == outcome.results
    folder = value_folder(outcome.directory, BEHIND)
    states = {each.name: each.state for each in pipeline.status(sweep.of(BEHIND), folder)}
    assert (states["pairs"], states["train"]) == ("done", "partial")


def test_a_value_that_diverges_is_recorded(outcome, file, tmp_path, monkeypatch):
    """As a training that raises after its first validation leaves it."""
    directory = shutil.copytree(outcome.directory, tmp_path / "run", copy_function=os.link)
    sweep = Sweep(load_recipe(file), VALUES)

    def diverge(*_, **__):
        raise TrainingDiverged("step 1: too far")

    monkeypatch.setattr(module.pipeline, "run", diverge)
    trial = module._train(sweep, BEHIND, directory, [], False)
    assert (trial.ending, trial.why, len(trial.course)) == ("diverged", "step 1: too far", 1)
    assert finished_trial(sweep.of(BEHIND), value_folder(directory, BEHIND)).ending == "diverged"


def test_the_written_recipe_continues_with_the_chosen_training(outcome, file):
    chosen = outcome.results["chosen"]
    text = outcome.recipe.read_text()
    assert yaml.safe_load(text)["train"]["beta"] == chosen
    assert text == file.read_text().replace("beta: 100.0 # to tune", f"beta: {chosen:g} # to tune")
    result = pipeline.run(load_recipe(outcome.recipe), outcome.directory, within=(*module.SHARED, "train"))
    assert all(stage.skipped for stage in result.stages)
    assert {stage.name for stage in result.stages} >= {"samples", "pairs", "train"}


def test_the_command_prints_the_curve_and_what_comes_next(outcome, file, monkeypatch):
    monkeypatch.setattr(module, "_train", lambda *_: pytest.fail("trained again"))
    arguments = ["tune", str(file), "--run", str(outcome.directory), "--values", "100,50,400"]
    printed = CliRunner().invoke(app, arguments)
    assert printed.exit_code == 0, printed.output
    assert f"capo run {outcome.recipe} --run {outcome.directory}" in printed.output.replace("\n", "")
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert found["values"] == outcome.results["values"]
    assert found["tuned_recipe"] == str(outcome.recipe)
    page = (outcome.directory / "tune/index.html").read_text()
    assert page.count('<svg class="chart"') == 2
    assert "stopped: 2.0 ± 0.5 points behind" in page


def test_error_bars_stay_within_the_axes(outcome):
    results = copy.deepcopy(outcome.results)
    for value in results["values"]:
        value["best"]["win_rate"]["error"] = 0.3
    bars = re.findall(r'whisker mean" d="([^"]+)"', render_sweep(results))
    heights = [float(y) for path in bars for y in re.findall(r"(?:M[\d.]+ |V)([\d.]+)", path)]
    assert min(heights) >= axes.TOP
    assert max(heights) <= axes.HEIGHT - axes.BOTTOM


def test_the_plan_counts_shared_work_once(file, monkeypatch):
    hours = {"generate": 10.0, "score": 5.0, "train": 3.0, "validation": 0.6, "evaluate": 7.0}
    stages = [Stage(name, "", 0, amount) for name, amount in hours.items()]
    disk = {"samples: images": 9e9, "train: checkpoints": 2e9, "train: best": 1e9}
    planned = SimpleNamespace(stages=stages, notes=[], gpu=SimpleNamespace(name="H100"), disk=disk)
    monkeypatch.setattr(sweep_cost, "plan_run", lambda *_: planned)
    for values, first, most in ([], 3, 6), (["--values", "50,100"], 2, 2):
        found = json.loads(CliRunner().invoke(app, ["tune", str(file), "--plan", "--json", *values]).stdout)
        # The base is validated once, and every value after both of its steps.
        assert found["shared"] == pytest.approx({"samples": 10, "scores": 5, "validation": 0.2})
        assert found["per_value"] == pytest.approx(3.4)
        assert found["bytes_per_value"] == 3e9
        assert (found["values"], found["most_values"]) == (first, most)
        assert found["hours"] == pytest.approx(15.2 + 3.4 * first)
        assert found["most_hours"] == pytest.approx(15.2 + 3.4 * most)


def test_invalid_values_are_wrong_usage(file):
    for values in ("5,ten", "-1,5", ""):
        assert CliRunner().invoke(app, ["tune", str(file), "--values", values]).exit_code == 2
