"""Independent commands make parts of the shards; a plain one commits the bytes it would have made alone."""

import json
import multiprocessing
import os

import numpy as np
import pytest
from typer.testing import CliRunner

import tiny_rewards
import tiny_run
import tiny_training
from capo import pipeline
from capo.cli import app
from capo.engine.launch import LaunchError
from capo.engine.part_executor import Part
from capo.pipeline.parts import run_part
from capo.recipe import dump_recipe, parse_recipe
from capo.store import Run, StaleArtifact, WorkspaceError
from forked import forking_process
from parts_at_once import both_parts, end_within_a_share


@pytest.fixture(scope="module")
def settings(tmp_path_factory, sdxl):
    folder = tmp_path_factory.mktemp("parts")
    return tiny_training.recipe(
        folder,
        sdxl,
        generate={"shard_prompts": 1, "num_inference_steps": 1, "guidance_scale": 0.0},
        evaluate={"samples_per_prompt": 1, "null_row": False},
    )


def manifests(run, *names):
    return [Run(run).artifact(name).manifest() for name in names]


@pytest.fixture
def at_once(settings, tmp_path):
    """Makes both parts of a stage of the run `parts` at the same time, in processes of their own."""
    with forking_process() as process:
        yield lambda stage: process.submit(both_parts, settings, tmp_path / "parts", stage).result()


def test_parts_at_once_and_a_plain_command_make_the_bytes_of_one_command(settings, tmp_path, at_once):
    for name in ("whole", "parts"):
        pipeline.run(settings, tmp_path / name, stage="prompts")
    at_once(None)
    samples = Run(tmp_path / "parts").artifact("samples")
    assert samples.manifest() is None
    assert len([name for name in samples.files() if name.endswith(".parquet")]) == 6
    times = {name: (samples.folder / name).stat().st_mtime_ns for name in samples.files()}
    for name in ("whole", "parts"):
        pipeline.run(settings, tmp_path / name, stage="generate")
    at_once("score")
    for name in ("whole", "parts"):
        pipeline.run(settings, tmp_path / name, stage="score")
    names = ("samples", "scores/red", "scores/blue")
    assert manifests(tmp_path / "whole", *names) == manifests(tmp_path / "parts", *names)
    made = {name: (samples.folder / name).stat().st_mtime_ns for name in samples.files()}
    assert times == made, "the plain command made no shard again"
    assert not (tmp_path / "parts/manifests/samples.written").exists()


def test_one_part_leaves_gaps_that_a_plain_command_fills(settings, tmp_path):
    pipeline.run(settings, tmp_path, stage="prompts")
    (result,) = run_part(settings, tmp_path, Part(1, 3), "generate")
    assert (result.artifacts, result.made, result.left) == (("samples",), 2, 4)
    assert [s.state for s in pipeline.status(settings, tmp_path) if s.name == "samples"] == ["partial"]
    pipeline.run(settings, tmp_path, stage="generate")
    assert Run(tmp_path).artifact("samples").done


def image_folders(folder, prompts):
    """Write a folder with two images for each prompt, named by its number; return the folder's name."""
    rng = np.random.default_rng(len(folder.name))
    for number in range(prompts):
        for sample in range(2):
            path = folder / str(number) / f"{sample}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tiny_run.png(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)))
    return str(folder)


def test_parts_import_images_and_evaluate_in_one_pass(settings, tmp_path, monkeypatch):
    """Every job makes, scores, judges and measures its shards; the plain command only joins tables."""
    values = settings.model_dump(mode="json")
    values["prompts"], values["images"] = {"source": "images"}, {"source": image_folders(tmp_path / "own", 3)}
    values["evaluate"] |= {
        "prompts": {"source": "shapes:test", "count": 3},
        "samples_per_prompt": 2,
        "judge": "shapes",
        "embedder": str(tiny_rewards.clip(tmp_path / "clip")),
        "policy": image_folders(tmp_path / "mine", 3),
        "against": image_folders(tmp_path / "yours", 3),
    }
    recipe = parse_recipe(values)
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    def in_parts(stage):
        return [run_part(recipe, parts, Part(n, 2), stage)[0] for n in (1, 0)]

    for run in (whole, parts):
        pipeline.run(recipe, run, stage="prompts")
    assert [result.left for result in in_parts("generate")] == [2, 0]
    pipeline.run(recipe, whole, stage="evaluate")
    assert [result.made for result in in_parts("evaluate")] == [3 * 1, 3 * 2]
    with monkeypatch.context() as patched:
        patched.setattr("capo.evaluation.candidates.tuned", lambda *_: exit("the baseline is complete"))
        patched.delattr("capo.scoring.rater.score_images")  # nothing is left to compute
        with pytest.raises(SystemExit):
            pipeline.run(recipe, parts, stage="evaluate")
    # The images of both models are measured; those of the baseline belong to the parts too.
    assert [result.made for result in in_parts("evaluate")] == [3 * 1 + 3, 3 * 2 + 3]
    for run in (whole, parts):
        pipeline.run(recipe, run, stage="generate")
        pipeline.run(recipe, run, stage="evaluate")
    names = ("samples", "baseline", "evaluate")
    assert manifests(whole, *names) == manifests(parts, *names)


def test_what_a_part_cannot_make_is_an_error_with_the_command_to_run(settings, tmp_path, monkeypatch):
    with pytest.raises(WorkspaceError, match=r"generate needs prompts.*capo prompts"):
        run_part(settings, tmp_path, Part(0, 2), "generate")
    pipeline.run(settings, tmp_path, stage="prompts")
    with pytest.raises(WorkspaceError, match=r"score needs samples"):
        run_part(settings, tmp_path, Part(0, 2), "score")
    run_part(settings, tmp_path, Part(0, 2), "generate")
    generate = settings.generate.model_copy(update={"num_inference_steps": 2})
    other = settings.model_copy(update={"generate": generate})
    with pytest.raises(StaleArtifact, match="num_inference_steps: 1 → 2"):
        run_part(other, tmp_path, Part(0, 2), "generate")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(LaunchError, match="--shard"):
        run_part(settings, tmp_path, Part(0, 2), "generate")


def test_parts_and_a_plain_command_exclude_each_other(tmp_path):
    refused = pytest.raises(WorkspaceError, match=r"in use by process \d+ on")
    with Run.open(tmp_path), refused, Run.share(tmp_path):
        pass
    refused = pytest.raises(WorkspaceError, match=rf"2 commands with --shard \(process {os.getpid()} on")
    with Run.share(tmp_path), Run.share(tmp_path), refused, Run.open(tmp_path):
        pass
    dead = multiprocessing.get_context("spawn").Process(target=end_within_a_share, args=(tmp_path,))
    dead.start()
    dead.join()
    assert list((tmp_path / ".shares").iterdir())
    with Run.open(tmp_path):
        assert not list((tmp_path / ".shares").iterdir())


def test_the_command_prints_what_is_left_and_rejects_a_wrong_part(settings, tmp_path):
    (tmp_path / "tiny.yaml").write_text(dump_recipe(settings))
    pipeline.run(settings, tmp_path / "run", stage="prompts")
    command = ["generate", str(tmp_path / "tiny.yaml"), "--run", str(tmp_path / "run")]
    wrong = CliRunner().invoke(app, [*command, "--shard", "2/2"])
    assert wrong.exit_code == 2
    assert "--shard: '2/2'" in wrong.stderr
    done = CliRunner().invoke(app, [*command, "--shard", "0/2", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["parts"] == [{"artifacts": ["samples"], "made": 3, "left": 3}]
