"""A small run, its measurements, and the whole run at their speed, worked by hand; and the command."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tiny_training
from capo.cli import app
from capo.cost.gpus import GPUS
from capo.cost.plan import Plan
from capo.cost.plan.benchmark_work import BenchmarkCount
from capo.cost.plan.counts import Sampling, Training
from capo.cost.plan.work import PromptCounts, Stage
from capo.cost.plan.work_counter import Count
from capo.cost.rehearsal import meter as meters
from capo.cost.rehearsal.meter import MeasuredPart, Meter
from capo.cost.rehearsal.projection import part_speed, project
from capo.cost.rehearsal.small_recipe import small_recipe
from capo.engine.progress import listening, progress
from capo.recipe import dump_recipe, load_recipe, parse_recipe

NUMBERS = {
    "prompts.count": 2, "generate.num_inference_steps": 2, "generate.shard_prompts": 1,
    "pairs.selection": "sum", "train.steps": 2, "train.warmup_steps": 0, "train.checkpoint_every": 2,
    "train.validate_every": 2, "train.on_divergence": "warn", "train.validation_prompts.count": 2,
    "evaluate.prompts.count": 2,
}  # fmt: skip


def flat(values, prefix=""):
    if not isinstance(values, dict):
        return {prefix: values}
    return {
        k: v for name, value in values.items() for k, v in flat(value, f"{prefix}.{name}".strip(".")).items()
    }


def test_only_numbers_differ_from_the_recipe():
    recipe = load_recipe("shapes-1")
    before, after = flat(recipe.model_dump()), flat(small_recipe(recipe).model_dump())
    ((whole,), (small,)) = before.pop("benchmarks"), after.pop("benchmarks")
    assert small == whole | {"count": 2, "images": 1}
    assert {field: after[field] for field in before if before[field] != after[field]} == NUMBERS


def test_a_batch_keeps_its_size_on_the_device_and_samples_are_limited():
    changes = [
        "train.per_device_batch_size=8",
        "generate.samples_per_prompt=40",
        "generate.adaptive={first: 30}",
    ]
    small = small_recipe(load_recipe("shapes", changes))
    assert small.train.global_batch_size == 8
    assert (small.generate.samples_per_prompt, small.generate.adaptive.first) == (16, 16)


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test sets."""
    now = [0.0]
    monkeypatch.setattr(meters.time, "monotonic", lambda: now[0])
    return now


def test_every_moment_belongs_to_the_part_that_reports_next(clock):
    def work(bar, seconds):
        clock[0] += seconds
        bar.advance()

    with listening(meter := Meter()):
        clock[0] += 3  # loading
        with progress("train", 3, "steps") as training:
            work(training, 5)
            for _ in range(2):
                clock[0] += 1
                with progress("validate: red", 2, "shards") as inner:
                    work(inner, 7)
                    work(inner, 4)
                work(training, 2)
    train, red = meter.parts["train"], meter.parts["validate: red"]
    assert (train.loading_seconds, train.seconds, train.units, train.loads) == (8, 4, 3, 1)
    assert (red.loading_seconds, red.seconds, red.units, red.loads) == (16, 8, 4, 2)
    assert (train.seconds_per_unit, red.seconds_per_unit) == (2, 4)
    assert train.peak_bytes > 10**7


def test_resumed_units_are_not_measured(clock):
    with listening(meter := Meter()), progress("train", 5, "steps") as bar:
        bar.advance(3, resumed=True)
        clock[0] += 2
        bar.advance()
    assert (meter.parts["train"].units, meter.parts["train"].loading_seconds) == (1, 2)


SAMPLING = Sampling(
    encode=8, step=10, steps=50, decode=100, decode_dtype="float32", parameters={"unet": 1},
    weights={"unet": 1}, denoiser="unet", conditioning=1, latent=1, pixels=1, activations=1, decoding=1,
)  # fmt: skip
NOTHING = Count(0, 0)


def test_the_whole_run_is_projected_from_flops_images_and_pairs(tmp_path):
    recipe = parse_recipe(
        {
            "name": "r",
            "model": {"checkpoint": "nowhere"},
            "prompts": {"source": _prompts(tmp_path, 5), "count": 5},
            "generate": {"samples_per_prompt": 4, "num_inference_steps": 50},
            "rewards": [{"name": "red", "source": "a:b"}, {"name": "blue", "source": "a:c"}],
            "train": {"beta": 1, "steps": 10, "global_batch_size": 8, "per_device_batch_size": 4,
                      "validate_every": 2, "validation_samples": 3,
                      "validation_prompts": {"source": _prompts(tmp_path, 7)}},
            "evaluate": {"prompts": {"source": _prompts(tmp_path, 9)}, "samples_per_prompt": 2},
        }
    )  # fmt: skip
    names = ["generate", "score", "train", "validation", "evaluate", "benchmark"]
    # The base's images exist already.
    benchmarks = (BenchmarkCount("a", "", 3, 4, 1, 2), BenchmarkCount("b", "", 5, 1, 2, 2))
    plan = Plan(
        recipe="r", gpu=GPUS["h100"], utilization=0.4, sampling=SAMPLING,
        prompts=PromptCounts(5, 7, 9, benchmarks),
        training=Training(NOTHING, NOTHING, NOTHING, 1), stages=[Stage(name, "", 1, 1.0) for name in names],
        memory={}, disk={}, notes=[], gpus=1, times=[],
    )  # fmt: skip
    small = small_recipe(recipe)
    rehearsed = replace(SAMPLING, steps=2)
    # One prompt of 4 images at 2 steps is 8 + 4 × 120 = 488, at 50 steps 8 + 4 × 600 = 2,408.
    parts = [
        MeasuredPart("generate", "prompts", 6.0, seconds=488.0, units=2, loads=1),
        MeasuredPart("score: red", "shards", 1.0, seconds=4.0, units=2, loads=1),
        MeasuredPart("score: blue", "shards", 2.0, seconds=8.0, units=2, loads=1),
        MeasuredPart("train", "steps", 3.0, seconds=12.0, units=2, loads=1),
        # A prompt of 3 images: 8 + 3 × 120 = 368 at 2 steps, 8 + 3 × 600 = 1,808 at 50.
        MeasuredPart("validate the base", "prompts", 5.0, seconds=368.0, units=2, loads=1),
        MeasuredPart("validate: red", "shards", 1.0, seconds=6.0, units=4, loads=2),
        # Of 2 images: 248 and 1,208.
        MeasuredPart("evaluate: base images", "prompts", 2.0, seconds=248.0, units=2, loads=1),
        MeasuredPart("evaluate: tuned images", "prompts", 2.0, seconds=248.0, units=2, loads=1),
        MeasuredPart("judge: base images", "shards", 0.5, seconds=2.0, units=2, loads=1),
        MeasuredPart("judge: tuned images", "shards", 0.5, seconds=2.0, units=2, loads=1),
        # Of one image: 128 and 608. Every benchmark has a judge of its own, the same for both models.
        MeasuredPart("benchmark a: images of tuned", "prompts", 2.0, seconds=128.0, units=2, loads=1),
        MeasuredPart("benchmark a: judge base", "shards", 1.0, seconds=7.0, units=2, loads=1),
        MeasuredPart("benchmark a: judge tuned", "shards", 1.0, seconds=7.0, units=2, loads=1),
        MeasuredPart("benchmark b: images of base", "prompts", 2.0, seconds=128.0, units=2, loads=1),
        MeasuredPart("benchmark b: images of tuned", "prompts", 2.0, seconds=128.0, units=2, loads=1),
        MeasuredPart("benchmark b: judge base", "shards", 1.0, seconds=3.0, units=2, loads=1),
        MeasuredPart("benchmark b: judge tuned", "shards", 1.0, seconds=3.0, units=2, loads=1),
    ]
    seconds = {stage.name: stage.hours * 3600 for stage in project(recipe, plan, small, parts, rehearsed)}
    assert seconds == pytest.approx(
        {
            "generate": 5 * 2408 + 6,
            "score": 20 * (1 + 2) + 3,
            "train": 80 * 3 + 3,
            # The base and five validations, in the rehearsal one; loading as often.
            "validation": 6 * 7 * (1808 + 3 * 1) + 6 * 6 / 2,
            "evaluate": 3 * 9 * (1208 + 2 * 1) + 5,
            "benchmark": 3 * 2408 + 2 * 3 * 4 * 7 + 4 + 2 * 5 * 608 + 2 * 5 * 3 + 6,
        }
    )
    assert part_speed(small, parts[3]).seconds_per_item == 3
    assert (part_speed(small, parts[1]).item, part_speed(small, parts[1]).seconds_per_item) == ("image", 1)


def _prompts(folder, count):
    path = folder / f"{count}.txt"
    path.write_text("".join(f"prompt {n} of {count}\n" for n in range(count)))
    return str(path)


@pytest.fixture
def rehearsed(tmp_path, sdxl, monkeypatch):
    """Rehearse the tiny recipe with other rewards; return the result, and the scratch directories."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    # Counting the passes of training takes most of the time, and projects nothing.
    monkeypatch.setattr("capo.cost.plan.count_training", lambda _: Training(NOTHING, NOTHING, NOTHING, 1))

    def rehearse(source):
        rewards = [{"name": "red", "source": source, "comparison": "bradley-terry"}]
        few = {"samples_per_prompt": 2, "null_row": False}
        recipe = tiny_training.recipe(tmp_path, sdxl, rewards=rewards, evaluate=few)
        (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
        result = CliRunner().invoke(app, ["rehearse", str(tmp_path / "recipe.yaml"), "--json"])
        return result, list((tmp_path / "scratch").iterdir())

    return rehearse


def test_the_command_runs_every_stage_and_keeps_nothing(rehearsed):
    result, left = rehearsed("tiny_training:redness")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert {"generate", "score: red", "train", "evaluate: red"} <= {part["name"] for part in values["parts"]}
    assert {"samples", "pairs", "train", "evaluate", "report"} <= values["artifacts"].keys()
    assert [stage["name"] for stage in values["projected"]] == ["generate", "score", "train", "evaluate"]
    hours = [stage["hours"] for stage in values["projected"]]
    assert min(hours) > 0
    assert values["hours"] == pytest.approx(sum(hours))
    assert left == []


def test_a_failed_rehearsal_is_kept_and_says_where(rehearsed):
    result, left = rehearsed("function_rewards:broken")
    assert result.exit_code == 1
    assert "no such model" in result.stderr
    (folder,) = left
    assert str(folder) in result.stderr
    assert Path(folder, "samples").is_dir()


def test_what_would_stop_the_run_is_reported_without_a_rehearsal(rehearsed):
    result, left = rehearsed("function_rewards:missing")
    assert (result.exit_code, left) == (1, [])
    assert "rewards.red" in result.stderr
