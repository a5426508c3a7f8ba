"""The embedded world's benchmark from end to end, as a stage of a run and as a command."""

import csv
import json

import pytest
import torch
from safetensors.torch import save_file

from capo import pipeline
from capo.benchmarks import benchmark_stage
from capo.benchmarks.standalone import standalone_recipe, with_benchmark
from capo.cost.plan.benchmark_work import count_benchmarks
from capo.recipe import BenchmarkSection, RecipeError, load_recipe
from capo.store import Run

SCORES = ["single_object", "two_object", "counting", "colors", "position", "color_attr", "overall"]
FAST = ["generate.num_inference_steps=2", "generate.shard_prompts=4", "engine.device=cpu"]


def measured(directory, *overrides, **section):
    """Measure `shapes` against itself, with little work."""
    recipe = load_recipe("shapes", [*FAST, "benchmarks=[]", *overrides])
    given = {"model": "shapes", "against": "shapes", "count": 6, "images": 2}
    recipe = with_benchmark(recipe, "shapes", given | section)
    return pipeline.run(recipe, directory, stage="benchmark", within=("benchmarks/shapes/",))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("shapes") / "run"
    measured(directory, export="official")
    return directory


def results(directory):
    return json.loads((directory / "benchmarks/shapes/results/results.json").read_text())


def test_equal_models_share_their_noise_and_score_the_same(run):
    found = results(run)
    assert found["same_noise"]
    assert [row["name"] for row in found["scores"]] == SCORES
    assert all(row["base"] == row["tuned"] for row in found["scores"])
    assert {(row["difference"]["value"], row["difference"]["p"]) for row in found["scores"]} == {(0.0, 1.0)}
    flips = found["flips"]
    assert (flips["gained"], flips["lost"], flips["both_right"] + flips["both_wrong"]) == (0, 0, 12)
    assert found["missing"] == {"base": 0, "tuned": 0, "reasons": []}
    assert any("6 prompts" in reason for reason in found["not_comparable"])
    with (run / "benchmarks/shapes/results/rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    right = sum(row["correct"] == "true" for row in rows if row["model"] == "tuned")
    assert right == flips["both_right"]


def test_the_official_layout_is_read_back_as_a_folder_of_images(run, tmp_path):
    official = run / "benchmarks/shapes/official/tuned"
    assert json.loads((official / "00003/metadata.jsonl").read_text())["prompt"]
    assert len(list(official.glob("*/samples/*.png"))) == 12
    measured(tmp_path / "again", model=str(official), against=None)
    found, before = results(tmp_path / "again"), results(run)
    assert found["models"] == {"tuned": str(official)}
    assert not found["same_noise"]
    assert [row["tuned"] for row in found["scores"]] == [row["tuned"] for row in before["scores"]]
    assert {row["difference"] for row in found["scores"]} == {None}


def test_images_of_the_evaluation_are_taken_over(tmp_path):
    """They start from the same noise, so a benchmark of its own makes the same ones."""
    overrides = [
        "evaluate.policy=shapes",
        "evaluate.prompts.count=6",
        "evaluate.samples_per_prompt=2",
        "evaluate.null_row=false",
        "rewards=[{name: red, source: 'function_rewards:redness'}]",
        "benchmarks=[{name: shapes, count: 6, images: 2}]",
    ]
    recipe = load_recipe("shapes", [*FAST, *overrides])
    pipeline.run(recipe, tmp_path / "both", stage="evaluate")
    pipeline.run(recipe, tmp_path / "both", stage="benchmark")
    pipeline.run(recipe, tmp_path / "alone", stage="benchmark")
    for side, artifact in (("base", "baseline"), ("tuned", "evaluate")):
        name = f"benchmarks/shapes/images/{side}"
        tables = [
            Run(tmp_path / where).artifact(name).read_table(f"shard-0000{shard}.parquet")
            for where in ("both", "alone")
            for shard in (0, 1)
        ]
        assert tables[:2] == tables[2:]
        path = f"images/{side}/shard-00000.parquet"
        assert Run(tmp_path / "both").artifact(artifact).read_table(path) == tables[0]


def test_every_field_of_a_benchmark_is_an_input_of_an_artifact():
    """A setting outside of all fingerprints could change without making anything stale."""
    section = {"name": "shapes", "model": "shapes", "against": "shapes", "export": "official"}
    recipe = load_recipe("shapes", [f"benchmarks=[{json.dumps(section)}]"])
    held = {field for step in benchmark_stage.steps(recipe) for field in step.inputs}
    fields = {f"benchmarks.shapes.{name}" for name in BenchmarkSection.model_fields}
    # The fingerprint of the judge covers its options, and `compare` decides which artifacts there are.
    assert fields - held == {f"benchmarks.shapes.{name}" for name in ("name", "options", "compare")}
    assert "benchmarks.shapes.judge.content" in held


def test_the_plan_counts_the_images_that_are_sampled_and_judged(tmp_path):
    (count,) = count_benchmarks(load_recipe("shapes"))
    assert (count.name, count.prompts, count.sampled_images, count.judged_images) == ("shapes", 96, 768, 768)
    existing = [f"benchmarks=[{{name: shapes, count: 5, model: '{tmp_path}'}}]"]
    (count,) = count_benchmarks(load_recipe("shapes", existing))
    assert (count.prompts, count.sampled_images, count.judged_images) == (5, 20, 40)
    assert count_benchmarks(load_recipe("shapes", ["benchmarks=[{name: geneval, prompts: nowhere}]"])) == ()


def test_a_model_without_a_recipe_gets_one_of_its_kind(tmp_path, sdxl):
    flow = standalone_recipe("shapes", "shapes-flow", "--model")
    assert flow.generate.scheduler == "FlowMatchEulerDiscreteScheduler"
    other = standalone_recipe("shapes", str(sdxl), "--model")
    assert (other.model.checkpoint, other.model.variant) == (str(sdxl), None)
    assert other.generate == load_recipe("sdxl").generate
    lora = tmp_path / "style.safetensors"
    save_file({"unet.x.lora_A.weight": torch.zeros(1)}, lora)
    with pytest.raises(RecipeError, match=r"--other: .*LoRA"):
        standalone_recipe("shapes", str(lora), "--other")
