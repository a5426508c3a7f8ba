"""Trackers and callbacks: what happens in a run, as it happens."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import fake_stages
from capo import load_recipe, pipeline
from capo.engine.events import ComparedImages, StageResult, TrainingStep, ValidationStep, calling, emit
from capo.pipeline import graph, trackers
from capo.recipe import parse_recipe
from capo.store import Run

RED, BLUE = (Image.new("RGB", (8, 8), color) for color in ("red", "blue"))


def recipe(**sections):
    return parse_recipe(fake_stages.VALUES | {"trackers": ["tensorboard"]} | sections)


def log(directory, events, **sections):
    with Run.open(directory) as run, trackers.calling_trackers(recipe(**sections), run):
        for event in events:
            emit(event)


def events_of(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return events


def validation(step):
    images = [ComparedImages("a red circle", RED, BLUE)]
    return ValidationStep(step, {"win_rate": 0.75, "held_out_win_rate": None}, lambda: images)


def test_a_tracker_gets_measures_win_rates_images_and_the_recipe(tmp_path):
    skipped, made = (StageResult("pairs", skip, 2.5, {"pairs": 9}) for skip in (True, False))
    log(tmp_path / "run", [skipped, made, TrainingStep(3, {"loss": 0.25}), validation(3)])
    (folder,) = (tmp_path / "run/tensorboard").iterdir()
    events = events_of(folder)
    numbers = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert numbers == {
        "pairs/pairs": [(0, 9)],
        "pairs/seconds": [(0, 2.5)],
        "train/loss": [(3, 0.25)],
        "validation/win_rate": [(3, 0.75)],
    }
    (image,) = events.Images("validation/images")
    sheet = Image.open(io.BytesIO(image.encoded_image_string)).convert("RGB")
    colors = {color for _, color in sheet.getcolors(1 << 20)}
    assert {(255, 0, 0), (0, 0, 255)} <= colors  # the base and the policy, side by side
    (text,) = events.Tensors("recipe/text_summary")
    assert b"beta: 300.0" in text.tensor_proto.string_val[0]


def test_a_resumed_run_continues_and_other_settings_begin_another(tmp_path):
    steps = [TrainingStep(step, {"loss": float(step)}) for step in (1, 2, 3)]
    log(tmp_path / "run", steps)
    log(tmp_path / "run", [TrainingStep(2, {"loss": 2.0})], engine={"threads": 1})  # from a checkpoint at 1
    (folder,) = (tmp_path / "run/tensorboard").iterdir()
    assert [event.step for event in events_of(folder).Scalars("train/loss")] == [1, 2]
    log(tmp_path / "run", steps, train={"beta": 5})
    assert len(list((tmp_path / "run/tensorboard").iterdir())) == 2


OFFLINE = """
import sys, json
from PIL import Image
from capo.engine.events import ComparedImages, TrainingStep, ValidationStep, emit
from capo.pipeline.trackers import calling_trackers
from capo.recipe import parse_recipe
from capo.store import Run
images = [ComparedImages("a cat", *(Image.new("RGB", (8, 8), color) for color in ("red", "blue")))]
with Run.open(sys.argv[1]) as run, calling_trackers(parse_recipe(json.loads(sys.argv[2])), run):
    emit(TrainingStep(1, {"loss": 0.5}))
    emit(ValidationStep(1, {"win_rate": 0.75}, lambda: images))
print("the end")
"""


def test_weights_and_biases_works_offline(tmp_path):
    pytest.importorskip("wandb")
    values = json.dumps(fake_stages.VALUES | {"trackers": ["wandb"]})
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, tmp_path / "run", values],
        env=os.environ | {"WANDB_MODE": "offline"}, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "the end\n"
    ids = json.loads((tmp_path / "run/trackers.json").read_text())
    (folder,) = (tmp_path / "run/wandb").glob(f"offline-run-*-{ids['runs']['wandb']}")
    (picture,) = folder.glob("files/media/images/validation/*.png")
    with Image.open(picture) as image:
        assert image.width > 8
    assert (folder / f"run-{ids['key']}.wandb").stat().st_size > 0
    assert not (tmp_path / "wandb").exists()


def test_what_a_tracker_needs_is_checked_before_the_run(tmp_path, monkeypatch):
    assert trackers.checks in graph.CHECKS
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    run = Run(tmp_path / "run")
    (check, *_) = trackers.checks(recipe(trackers=["mlflow"]), run)
    (finding,) = check.findings()
    assert (finding.field, finding.severity) == ("trackers", "error")
    assert "'capo-diffusion[mlflow]'" in finding.message
    assert trackers.checks(recipe(trackers=[]), run) == []


def test_weights_and_biases_without_a_key_is_an_error_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: name)
    monkeypatch.setattr(trackers, "_can_log_in", lambda: False)
    (finding,) = trackers.checks(recipe(trackers=["wandb"]), Run(tmp_path / "run"))[0].findings()
    assert "WANDB_MODE=offline" in finding.message


def test_callbacks_get_every_stage_and_end_with_the_run(tmp_path, monkeypatch):
    fake_stages.install(monkeypatch.setattr)
    seen = []
    first = pipeline.run(recipe(trackers=[]), tmp_path, callbacks=[seen.append])
    assert seen == list(first.stages)
    second = pipeline.run(recipe(trackers=[]), tmp_path, callbacks=[seen.append])
    assert seen == [*first.stages, *second.stages]
    emit(TrainingStep(1, {}))
    assert len(seen) == len(first.stages) + len(second.stages)


def test_what_a_callback_raises_stops_the_run_which_resumes(tmp_path, monkeypatch):
    fake_stages.install(monkeypatch.setattr)

    def stop(event):
        if event.name == "pairs":
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        pipeline.run(recipe(trackers=[]), tmp_path, callbacks=[stop])
    fake_stages.calls.clear()
    pipeline.run(recipe(trackers=[]), tmp_path)
    assert fake_stages.calls == ["train", "baseline", "evaluate", "report"]


def test_an_inner_context_does_not_take_the_outer_callbacks():
    outer, inner = [], []
    with calling([outer.append]):
        with calling([inner.append]):
            emit(TrainingStep(1, {}))
        emit(TrainingStep(2, {}))
    assert ([e.step for e in outer], [e.step for e in inner]) == ([1, 2], [1])


def test_the_code_of_the_guide_runs(tmp_path, monkeypatch, capsys):
    fake_stages.install(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    train = fake_stages.STAGES["train"]

    def training(job):
        emit(TrainingStep(1, {"loss": 0.5}))
        emit(validation(1))
        train(job)

    monkeypatch.setitem(fake_stages.STAGES, "train", training)
    page = Path(__file__).parents[2] / "docs/guides/follow-a-run.md"
    (code,) = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    exec(code, {})
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[:2]] == ["prompts", "samples"]
    assert {"1 0.5", "1 0.75"} <= set(printed)
    assert printed[-1].startswith("runs/watched ['prompts', 'samples',")
    with Image.open("step-1.png") as saved:
        assert saved.getpixel((0, 0)) == (0, 0, 255)


def test_the_field_of_version_0_1_is_read():
    old = fake_stages.VALUES | {"train": {"beta": 300, "tensorboard": True}}
    assert parse_recipe(old).trackers == ("tensorboard",)
    assert load_recipe("shapes", ["train.tensorboard=false"]).trackers == ()
