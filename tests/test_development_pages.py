"""The development pages: worked examples run as they stand, and the architecture page matches the code."""

import re
import sys
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from capo.benchmarks import registry
from capo.benchmarks.standalone import standalone_recipe, with_benchmark
from capo.diffusion import FAMILIES, load_family
from capo.method import objective
from capo.method.objective_table import OBJECTIVES
from capo.pipeline import graph, run, status
from capo.prompts.benchmark_prompts import BENCHMARKS, read_benchmark
from capo.prompts.text_rules import PromptsError
from capo.recipe import ModelSection, RewardSection, load_recipe
from capo.rewards import load_reward, reward_identity
from capo.rewards.catalog import CATALOG
from capo.store import Run
from capo.store.step import Job
from synthetic_run import Options, make_run
from test_imports import LAYERS

PAGES = Path(__file__).parents[1] / "docs" / "development"


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", (PAGES / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)


def run_block(code, name="example"):
    module = ModuleType(name)
    exec(compile(code, name, "exec"), module.__dict__)
    return module


@pytest.fixture
def restore():
    """Remove the entries that an example adds to a table."""
    tables = (OBJECTIVES, CATALOG, FAMILIES, BENCHMARKS)
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


@pytest.fixture
def module_file(monkeypatch):
    """Make a block importable under the module name that its page gives it."""

    def install(code, name):
        module = run_block(code, name)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return install


def test_objective(restore, monkeypatch):
    function, entry = blocks("add-an-objective.md")
    monkeypatch.setattr(objective, "hinge_loss", run_block(function).hinge_loss, raising=False)
    run_block(entry)
    recipe = load_recipe("shapes", ["train.objective=hinge"])
    chosen = OBJECTIVES[recipe.train.objective]
    loss = objective.preference_loss(chosen, torch.tensor([0.25, 2.0]), torch.zeros(2))
    assert loss.tolist() == [0.75, 0.0]


def test_reward(restore, module_file):
    architecture, entry = blocks("add-a-reward.md")
    module_file(architecture, "capo.rewards.models.brightness")
    run_block(entry)
    images = [Image.new("RGB", (8, 8), color) for color in ("black", "white")]
    section = RewardSection(name="brightness")
    np.testing.assert_allclose(load_reward(section, "cpu").score(images, ["", ""]), [0.0, 1.0])
    inverted = RewardSection(name="brightness", options={"invert": True})
    np.testing.assert_allclose(load_reward(inverted, "cpu").score(images, ["", ""]), [1.0, 0.0])
    assert reward_identity(section) != reward_identity(inverted)


def test_family(restore, module_file, tmp_path):
    family, entry = blocks("add-a-family.md")
    module_file(family, "capo.diffusion.studio_xl")
    run_block(entry)
    folder = tiny.sdxl(tmp_path / "model")
    plain = load_family(ModelSection(checkpoint=str(folder)), "cpu")
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionXLPipeline", "StudioXLPipeline"))
    studio = load_family(ModelSection(checkpoint=str(folder)), "cpu")
    expected = plain._encode(["studio photo, a cat"])["prompt_embeds"]
    torch.testing.assert_close(studio._encode(["a cat"])["prompt_embeds"], expected)


def test_stage(tmp_path, monkeypatch):
    (code,) = blocks("add-a-stage.md")
    stage = run_block(code)
    monkeypatch.setattr(graph, "STAGES", (*graph.STAGES, stage.steps))
    small = Options(prompts=3, samples=2, evaluation_prompts=2, evaluation_samples=2, steps=5)
    recipe, run = make_run(tmp_path / "run", small)
    (step,) = [step for step in graph.steps_of(load_recipe("shapes")) if step.artifact == "words"]
    with Run.open(run.path) as opened:
        artifact = opened.artifact("words")
        artifact.begin(step.inputs)
        step.make(Job(recipe, opened, (artifact,)))
    assert artifact.done
    assert artifact.read_json("words.json")["drawing"] == 3


def test_benchmark(restore, module_file, monkeypatch, tmp_path):
    reading, judging = blocks("add-a-benchmark.md")
    run_block(reading)
    module_file(judging, "skills_benchmark")
    monkeypatch.setitem(registry.SHIPPED, "skills", "skills_benchmark:SKILLS")
    (tmp_path / "skills.tsv").write_text("two cats\tcounting\na red car\tcolor\n")
    rows = list(read_benchmark("skills", tmp_path))
    assert [(row.text, row.category, row.metadata["line"]) for row in rows] == [
        ("two cats", "counting", 1),
        ("a red car", "color", 2),
    ]
    colors = {"00000_0": 250, "00000_1": 5, "00001_0": 200, "00001_1": None}
    images = tmp_path / "images"
    images.mkdir()
    for name, level in colors.items():
        pixels = np.full((8, 8, 3), 128 if level is None else level, np.uint8)
        pixels[0, 0] = 128
        Image.fromarray(pixels).save(images / f"{name}.png")
    given = {"model": str(images), "prompts": str(tmp_path / "skills.tsv"), "images": 2}
    recipe = with_benchmark(standalone_recipe("skills", str(images), "--model"), "skills", given)
    results = run(recipe, tmp_path / "run", stage="benchmark").benchmarks["skills"]
    assert {row["name"]: row["tuned"]["value"] for row in results["scores"]} == {
        "counting": 0.5, "color": 1.0, "overall": 0.75
    }  # fmt: skip
    assert (results["missing"]["tuned"], results["missing"]["reasons"]) == (1, ["the image is of one color"])

    stricter = with_benchmark(recipe, "skills", {"options": {"threshold": 0.9}})
    states = {state.name: state.state for state in status(stricter, tmp_path / "run")}
    assert states["benchmarks/skills/images/tuned"] == "done"
    assert states["benchmarks/skills/judgments/tuned"] == "stale"


@pytest.mark.parametrize("line", ["no skill", "two\ttabs\there"])
def test_benchmark_names_a_malformed_line(line, restore, tmp_path):
    run_block(blocks("add-a-benchmark.md")[0])
    file = tmp_path / "skills.tsv"
    file.write_text(f"two cats\tcounting\n{line}\n")
    with pytest.raises(PromptsError, match=f"{re.escape(str(file))}:2: expected"):
        list(read_benchmark("skills", file))


ARCHITECTURE = (PAGES / "architecture.md").read_text("utf-8")


def test_paths_of_the_architecture_page_name_functions():
    names = re.findall(r"`(capo\.[\w.]+:[\w.]+)`", ARCHITECTURE)
    assert len(names) > 20
    for name in names:
        assert callable(resolve_name(name)), name


def test_rooms_of_the_architecture_page_are_the_layers():
    table = ARCHITECTURE.partition("## Rooms")[2].partition("\n## ")[0]
    rows = [set(re.findall(r"`(\w+)`", row)) for row in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)]
    assert rows == [layer for layer in LAYERS if layer != {"__main__"}]
