"""GenEval as a stage: from images in the official layout to scores and official results."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mmdet_network
import tiny_rewards
from capo import pipeline
from capo.benchmarks.geneval import CATEGORIES
from capo.benchmarks.geneval_rules import CLASSES
from capo.benchmarks.judges import mask2former
from capo.benchmarks.standalone import with_benchmark
from capo.pretrained.model_loading import quiet
from capo.recipe import load_recipe

PUBLISHED = Path(__file__).parents[3] / "shared/data/prompts/geneval"


def line(tag, prompt, *include, **more):
    return {"tag": tag, "include": list(include), **more, "prompt": prompt}


def clause(name, count=1, **more):
    return {"class": name, "count": count, **more}


LINES = [
    line("single_object", "a photo of a bear", clause("bear")),
    line("single_object", "a photo of a cow", clause("cow")),
    line("two_object", "a photo of a bear and a book", clause("bear"), clause("book")),
    line("counting", "a photo of two bears", clause("bear", 2), exclude=[clause("bear", 3)]),
    line("colors", "a photo of a red bear", clause("bear", color="red")),
    line("position", "a photo of a book above a bear", clause("bear"), clause("book", position=["above", 0])),
    line("color_attr", "a photo of a red bear and a white book", clause("bear", color="red"),
         clause("book", color="white")),
]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Official prompts, a folder of images in the official layout, and the judge's weights."""
    folder = tmp_path_factory.mktemp("geneval")
    (folder / "evaluation_metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in LINES))
    for number, row in enumerate(LINES):
        place = folder / f"images/{number:05d}"
        (place / "samples").mkdir(parents=True)
        (place / "metadata.jsonl").write_text(json.dumps(row))
        for image in range(2):
            values = np.random.default_rng(2 * number + image).integers(0, 256, (4, 4, 3), dtype=np.uint8)
            picture = Image.fromarray(values).resize((48, 48), Image.Resampling.BICUBIC)
            picture.save(place / f"samples/{image:05d}.png")
    weights = mmdet_network.weights()
    head = weights["panoptic_head.cls_embed.bias"]
    head[[CLASSES.index(name) for name in ("bear", "book")]] += torch.tensor([9.0, 8.0])
    torch.save({"meta": {}, "state_dict": weights}, folder / "mask2former.pth")
    with quiet():
        tiny_rewards.clip(folder / "clip")
    return folder


def test_images_in_the_official_layout_become_official_results(world, tmp_path, monkeypatch):
    monkeypatch.setattr(mask2former, "SHORT_SIDE", 64)
    recipe = load_recipe("shapes", ["benchmarks=[]", "engine.device=cpu"])
    options = {"detector": str(world / "mask2former.pth"), "clip": str(world / "clip")}
    given = {"model": str(world / "images"), "prompts": str(world), "images": 2, "options": options}
    recipe = with_benchmark(recipe, "geneval", given)
    pipeline.run(recipe, tmp_path / "run", stage="benchmark", within=("benchmarks/geneval/",))
    folder = tmp_path / "run/benchmarks/geneval/results"
    results = json.loads((folder / "results.json").read_text())
    (file,) = folder.rglob("results.jsonl")
    rows = [json.loads(text) for text in file.read_text().splitlines()]
    assert [row["filename"] for row in rows] == [
        f"{n:05d}/samples/{i:05d}.png" for n in range(7) for i in (0, 1)
    ]
    assert [json.loads(row["metadata"]) for row in rows[::2]] == LINES
    outcomes = {}
    for row in rows:
        outcomes.setdefault(row["tag"], []).append(row["correct"])
        assert row["correct"] == (not row["reason"])
    assert 0 < sum(row["correct"] for row in rows) < len(rows)
    assert outcomes["single_object"] == [True, True, False, False]
    means = {tag: sum(values) / len(values) for tag, values in outcomes.items()}
    scores = {row["name"]: row["tuned"]["value"] for row in results["scores"]}
    assert scores == pytest.approx(means | {"overall": sum(means.values()) / 6})
    assert results["missing"]["tuned"] == 0
    assert any("mask2former.pth" in reason for reason in results["not_comparable"])


def test_images_of_other_prompts_are_rejected(world, tmp_path):
    """A part of the prompts has other numbers than the folders, so verdicts would be on other images."""
    options = {"detector": str(world / "mask2former.pth"), "clip": str(world / "clip")}
    given = {
        "model": str(world / "images"),
        "prompts": str(world),
        "images": 1,
        "count": 3,
        "options": options,
    }
    recipe = with_benchmark(load_recipe("shapes", ["benchmarks=[]", "engine.device=cpu"]), "geneval", given)
    with pytest.raises(ValueError, match=r"0000\d/metadata\.jsonl belongs to another prompt"):
        pipeline.run(recipe, tmp_path / "run", stage="benchmark", within=("benchmarks/geneval/",))


def test_missing_weights_stop_it_before_any_image_is_read(world, tmp_path):
    recipe = load_recipe("shapes", ["benchmarks=[]", "engine.device=cpu"])
    recipe = with_benchmark(recipe, "geneval", {"model": str(world / "images"), "prompts": str(world)})
    with pytest.raises(ValueError, match=r"options: .*743b7d99\.pth"):
        pipeline.run(recipe, tmp_path / "run", stage="benchmark", within=("benchmarks/geneval/",))
    assert not (tmp_path / "run/benchmarks").exists()


def test_official_files_need_no_judge(world, tmp_path):
    recipe = load_recipe("shapes", ["benchmarks=[]", "engine.device=cpu"])
    given = {"model": str(world / "images"), "prompts": str(world), "images": 2, "export": "official"}
    recipe = with_benchmark(recipe, "geneval", given)
    parts = tuple(f"benchmarks/geneval/{part}" for part in ("images", "official"))
    pipeline.run(recipe, tmp_path / "run", stage="benchmark", within=parts)
    assert (tmp_path / "run/benchmarks/geneval/official/tuned/00006/samples/00001.png").is_file()
    with pytest.raises(ValueError, match=r"options: .*743b7d99\.pth"):
        pipeline.run(recipe, tmp_path / "run", stage="benchmark", within=("benchmarks/geneval/judgments",))


def test_the_official_prompts_can_be_judged(world):
    if not PUBLISHED.is_dir():
        pytest.skip("the prompts of GenEval are not available")
    from capo.benchmarks.judges.geneval_judge import GenEvalJudge
    from capo.prompts import load_prompts
    from capo.recipe import PromptsSection

    prompts = load_prompts(PromptsSection(source=f"geneval:{PUBLISHED}"), 0)
    GenEvalJudge(str(world / "mask2former.pth"), str(world / "clip")).check(prompts)
    counts = Counter(prompt.category for prompt in prompts)
    assert list(counts) == list(CATEGORIES)
    names = (PUBLISHED / "object_names.txt").read_text().splitlines()
    assert tuple(names) == CLASSES
