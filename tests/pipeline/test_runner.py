import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

import fake_stages
from capo import pipeline
from capo.recipe import dump_recipe, parse_recipe
from capo.store import Run, StaleArtifact, WorkspaceError
from capo.store.manifest import describe, sealed

ORDER = [
    "prompts", "samples", "scores/first", "scores/second", "scores/held-out", "pairs", "train", "baseline",
    "evaluate", "report",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _fakes(monkeypatch):
    fake_stages.install(monkeypatch.setattr)


def recipe(**sections):
    values = fake_stages.VALUES | {
        name: fake_stages.VALUES.get(name, {}) | value if isinstance(value, dict) else value
        for name, value in sections.items()
    }
    return parse_recipe(values)


def states(directory, **sections):
    return {s.name: s.state for s in pipeline.status(recipe(**sections), directory)}


def made(directory, force=False, **sections):
    """Run the recipe; return the artifacts it makes, except `prompts`, whose stage is real."""
    fake_stages.calls.clear()
    pipeline.run(recipe(**sections), directory, force=force)
    return list(fake_stages.calls)


def test_a_run_makes_every_artifact_in_order(tmp_path):
    result = pipeline.run(recipe(), tmp_path)
    assert [s.name for s in result.stages] == ORDER
    assert fake_stages.calls == ORDER[1:]
    assert not any(s.skipped for s in result.stages)
    assert result.stages[0].summary == {"prompts": 4, "duplicates": 0}
    assert result.report == tmp_path / "report/index.html"
    assert result.results == fake_stages.RESULTS
    assert set(states(tmp_path).values()) == {"done"}
    assert (tmp_path / "recipe.yaml").read_text() == dump_recipe(recipe())


def test_a_second_run_makes_nothing_and_writes_nothing(tmp_path):
    first = pipeline.run(recipe(), tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    fake_stages.calls.clear()
    second = pipeline.run(recipe(), tmp_path)
    assert fake_stages.calls == []
    assert all(s.skipped for s in second.stages)
    assert [s.summary for s in second.stages] == [s.summary for s in first.stages]
    assert second.results == first.results
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_two_runs_have_the_same_bytes_except_timings(tmp_path):
    for name in ("a", "b"):
        pipeline.run(recipe(), tmp_path / name)
    a, b = (
        {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()}
        for name in ("a", "b")
    )
    assert a.keys() == b.keys()
    # Both may have measured the same rounded times.
    assert {p.name for p in a if a[p] != b[p]} <= {"timings.jsonl"}
    lines = [json.loads(line) for line in (tmp_path / "a/timings.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ORDER
    assert all(line["seconds"] >= 0 and line["peak_rss_bytes"] > 10**6 for line in lines)
    assert {line["device"] for line in lines} == {"cpu"}


FIRST, SECOND, HELD_OUT = fake_stages.VALUES["rewards"]

# Changes and the artifacts that they make stale, including all dependent ones.
SAMPLES, SCORES, EVALUATED = ORDER[1:2], ORDER[2:5], ["evaluate", "report"]
TRAINED = ["pairs", "train", *EVALUATED]
CHANGES = [
    ({"seed": 1}, ORDER),
    ({"prompts": {"count": 3}}, ["prompts", *SAMPLES, *SCORES, *TRAINED]),
    ({"generate": {"guidance_scale": 5.0}}, [*SAMPLES, *SCORES, *TRAINED, "baseline"]),
    ({"generate": {"samples_per_prompt": 5}}, [*SAMPLES, *SCORES, *TRAINED]),
    ({"pairs": {"selection": "sum"}}, TRAINED),
    ({"train": {"steps": 5}}, ["train", *EVALUATED]),
    ({"evaluate": {"samples_per_prompt": 2}}, ["baseline", *EVALUATED]),
    ({"report": {"title": "x"}}, ["report"]),
    ({"name": "other"}, ["report"]),
    ({"pairs": {"min_margin": 0.1}}, TRAINED),
    ({"rewards": [{"name": "first", "weight": 2.0}, SECOND, HELD_OUT]}, TRAINED),
    ({"rewards": [{"name": "first", "checkpoint": "x/y"}, SECOND, HELD_OUT]},
     ["scores/first", *TRAINED, "baseline"]),
    ({"rewards": [FIRST, SECOND]}, ["baseline", *EVALUATED]),
    ({"rewards": [FIRST, SECOND, {"name": "held-out"}]}, TRAINED),
]  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), CHANGES)
def test_a_change_makes_only_dependent_artifacts_stale(tmp_path, change, expected):
    made(tmp_path)
    statuses = states(tmp_path, **change)
    assert {name for name, state in statuses.items() if state == "stale"} == set(expected) & statuses.keys()
    with pytest.raises(StaleArtifact) as error:
        pipeline.run(recipe(**change), tmp_path)
    assert error.value.changes.keys() == set(expected) & statuses.keys()
    assert all(name in str(error.value) for name in error.value.changes)
    assert set(states(tmp_path).values()) == {"done"}, "a rejected run changes nothing"
    assert set(made(tmp_path, force=True, **change)) <= set(expected)
    assert set(states(tmp_path, **change).values()) == {"done"}


@pytest.mark.parametrize(
    "change",
    [
        {"engine": {"device": "cpu", "threads": 1}},
        {"generate": {"batch_size": 3}},
        {"train": {"per_device_batch_size": 8}},
    ],
)
def test_speed_settings_make_nothing_stale(tmp_path, change):
    made(tmp_path)
    assert set(states(tmp_path, **change).values()) == {"done"}
    assert made(tmp_path, **change) == []


def test_an_unchanged_result_makes_nothing_after_it_again(tmp_path):
    made(tmp_path)
    # The fake generate writes the same bytes for any number of steps.
    assert made(tmp_path, force=True, generate={"num_inference_steps": 9}) == [
        "samples", "train", "baseline", "evaluate", "report",
    ]  # fmt: skip


def test_status_says_why(tmp_path):
    statuses = {s.name: s for s in pipeline.status(recipe(), tmp_path)}
    assert (statuses["prompts"].state, statuses["prompts"].why) == ("missing", "not started")
    assert (statuses["train"].state, statuses["train"].why) == ("missing", "needs samples, pairs")
    made(tmp_path)
    statuses = {s.name: s for s in pipeline.status(recipe(generate={"guidance_scale": 5.0}), tmp_path)}
    assert statuses["samples"].why == "generate.guidance_scale: 7.5 → 5.0"
    assert statuses["samples"].changes == {"generate.guidance_scale": (7.5, 5.0)}
    assert statuses["scores/first"].why == "samples changed"
    (tmp_path / "samples/shard-1").unlink()
    statuses = {s.name: s for s in pipeline.status(recipe(), tmp_path)}
    assert (statuses["samples"].state, statuses["samples"].why) == (
        "partial",
        "shard-1 is missing or of another length",
    )
    assert statuses["scores/first"].state == "done"


VALIDATED = {"validation_prompts": {"source": "shapes:validation", "count": 2}}


def test_the_bases_validation_is_made_once_for_all_trainings(tmp_path):
    first = made(tmp_path / "first", train=VALIDATED)
    assert first == [*ORDER[1:6], "validation", *ORDER[6:]]
    again = made(tmp_path / "first", force=True, train=VALIDATED | {"steps": 5})
    assert again == ["train", *EVALUATED]
    more = VALIDATED | {"validation_samples": 7}
    assert made(tmp_path / "first", force=True, train=more) == ["validation", "train", *EVALUATED]


def test_a_missing_base_validation_does_not_matter_after_training(tmp_path):
    made(tmp_path, train=VALIDATED)
    (tmp_path / "validation/base/scores.json").unlink()
    assert "validation" not in states(tmp_path, train=VALIDATED)
    assert made(tmp_path, train=VALIDATED) == []
    (tmp_path / "train/weights.json").unlink()
    assert states(tmp_path, train=VALIDATED)["validation"] == "partial"
    assert made(tmp_path, train=VALIDATED) == ["validation", "train"]


def test_runs_of_version_0_1_may_have_the_bases_validation_in_train(tmp_path):
    """Earlier versions had no artifact `validation`; its files belonged to `train`."""
    made(tmp_path, train=VALIDATED)
    inside = tmp_path / "train/validation"
    (tmp_path / "validation").rename(inside)
    for record in (tmp_path / "manifests").glob("validation.*"):
        record.unlink()
    manifest = json.loads((tmp_path / "manifests/train.json").read_text())
    manifest["files"]["validation/base/scores.json"] = describe(inside / "base/scores.json")
    (tmp_path / "manifests/train.json").write_text(json.dumps(sealed(manifest)))
    for name in EVALUATED:  # these depend on that `train`
        for kind in ("json", "inputs.json"):
            (tmp_path / f"manifests/{name}.{kind}").unlink()
        shutil.rmtree(tmp_path / name)
    assert made(tmp_path, train=VALIDATED) == EVALUATED
    assert set(states(tmp_path, train=VALIDATED).values()) == {"done"}
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert made(tmp_path, train=VALIDATED) == []
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    assert made(tmp_path, force=True, train=VALIDATED | {"steps": 5}) == ["validation", "train", *EVALUATED]
    assert not inside.exists()


def test_changed_weights_of_a_reward_make_its_scores_stale(tmp_path, monkeypatch):
    made(tmp_path)
    monkeypatch.setattr("capo.rewards.resolve.reward_identity", lambda section: "other weights")
    statuses = {s.name: s for s in pipeline.status(recipe(), tmp_path)}
    assert statuses["scores/first"].why == "rewards.first.weights: weights of first → other weights"
    assert statuses["samples"].state == "done"


def test_changed_contents_of_a_prompt_file_make_prompts_stale(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n")
    section = {"source": str(prompts), "count": None}
    made(tmp_path / "run", prompts=section)
    prompts.write_text("a dog\n")
    assert states(tmp_path / "run", prompts=section)["prompts"] == "stale"


def test_missing_files_are_made_again_and_nothing_after_them(tmp_path):
    made(tmp_path)
    (tmp_path / "samples/shard-1").unlink()
    assert made(tmp_path) == ["samples"]
    assert set(states(tmp_path).values()) == {"done"}


def test_an_artifact_that_became_different_stops_the_run_at_what_was_made_from_it(tmp_path, monkeypatch):
    """As after a resume on another machine."""

    def generate(job):
        job.artifact.write_bytes("shard-1", b"rounded otherwise")
        job.artifact.commit()

    made(tmp_path)
    (tmp_path / "samples/shard-1").unlink()
    monkeypatch.setitem(fake_stages.STAGES, "samples", generate)
    with pytest.raises(StaleArtifact, match="samples changed") as error:
        made(tmp_path)
    assert list(error.value.changes) == ["scores/first"]
    assert fake_stages.calls == ["samples"]


def test_a_run_resumes_at_the_failed_stage(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="expected 4 scores"):
        made(tmp_path, train={"objective": "dpo"})
    assert states(tmp_path, train={"objective": "dpo"})["train"] == "partial"
    monkeypatch.setitem(fake_stages.STAGES, "train", lambda job: job.artifact.commit())
    assert made(tmp_path, train={"objective": "dpo"}) == ["train", "baseline", "evaluate", "report"]


def test_a_partial_artifact_with_other_settings_is_not_resumed(tmp_path):
    with pytest.raises(ValueError, match="expected 4 scores"):
        made(tmp_path, train={"objective": "dpo"})
    with pytest.raises(StaleArtifact, match=r"train\.objective: dpo → capo"):
        made(tmp_path)
    assert made(tmp_path, force=True) == ["train", "baseline", "evaluate", "report"]


def test_a_stage_that_does_not_commit_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setitem(fake_stages.STAGES, "pairs", lambda job: None)
    with pytest.raises(RuntimeError, match="pairs ended without"):
        made(tmp_path)


def test_one_stage_at_a_time(tmp_path):
    for stage in fake_stages.COMMANDS:
        result = pipeline.run(recipe(), tmp_path, stage=stage)
        assert not any(s.skipped for s in result.stages)
        assert (result.report is None) == (stage != "report")
    assert fake_stages.calls == ORDER[1:]
    assert made(tmp_path) == []


def test_a_stage_says_which_command_comes_first(tmp_path):
    pipeline.run(recipe(), tmp_path, stage="prompts")
    with pytest.raises(WorkspaceError, match=r"score needs samples, which is missing .*`capo generate`"):
        pipeline.run(recipe(), tmp_path, stage="score")
    made(tmp_path)
    with pytest.raises(WorkspaceError, match=r"train needs samples, which is stale .*guidance_scale"):
        pipeline.run(recipe(generate={"guidance_scale": 5.0}), tmp_path, stage="train")


def test_an_unknown_reward_stops_before_any_work(tmp_path, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(ValueError, match="no shipped reward"):
        pipeline.run(recipe(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Runs in processes of their own.


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, fake_stages.__file__, *map(str, arguments)],
        env=os.environ | {"CAPO_QUIET": "0"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # If a shell runs the tests in the background, they and their children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.fixture
def waiting(tmp_path):
    """A `capo run` that waits during training."""
    (tmp_path / "wait").write_text("")
    path = fake_stages.write_recipe(tmp_path / "tiny.yaml")
    arguments = ("run", path, "--run", tmp_path / "run")
    with start(*arguments, CAPO_TEST_WAIT=str(tmp_path / "wait")) as process:
        assert process.stdout.readline() == "waiting\n"
        yield process, arguments
        process.kill()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_prints_how_to_resume_and_resumes(tmp_path, waiting, sent):
    process, _ = waiting
    process.send_signal(sent)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f": capo run {tmp_path / 'tiny.yaml'} --run {tmp_path / 'run'}" in errors
    assert "Traceback" not in errors
    assert states(tmp_path / "run")["train"] == "partial"
    assert made(tmp_path / "run") == ["train", "baseline", "evaluate", "report"]


def test_two_runs_of_one_directory(tmp_path, waiting):
    process, arguments = waiting
    with start(*arguments) as second:
        _, errors = second.communicate(timeout=120)
    assert second.returncode == 1
    assert f"in use by process {process.pid} on" in errors
    assert "Traceback" not in errors


def test_a_killed_run_resumes_with_the_same_command(tmp_path, waiting):
    process, arguments = waiting
    process.kill()
    process.communicate(timeout=120)
    with start(*arguments) as again:
        _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert "samples: up to date" in errors
    pipeline.run(recipe(), tmp_path / "whole")
    for path in (tmp_path / "whole").rglob("*"):
        if path.is_file() and path.name != "timings.jsonl":
            other = tmp_path / "run" / path.relative_to(tmp_path / "whole")
            assert other.read_bytes() == path.read_bytes(), path
    assert Run(tmp_path / "run").artifact("report").done
