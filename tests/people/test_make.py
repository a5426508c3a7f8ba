"""`capo people make`: from the evaluation of a run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import tiny_run
from capo.cli import app
from capo.evaluation.model_images import image_sets
from capo.people.human_study import PAGE, read_key, read_study
from capo.recipe import dump_recipe
from capo.rewards.rgb_images import decode_image
from synthetic_run import Options, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    _, run = make_run(tmp_path_factory.mktemp("runs") / "run", Options(prompts=2, samples=2, steps=20))
    return run


def capo(*arguments, code=0):
    result = CliRunner().invoke(app, ["people", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def first_images(run):
    """By model and prompt, the pixels of the first image of the evaluation."""
    return {
        (label, row["prompt_id"]): np.asarray(decode_image(row["image"]["bytes"]))
        for label, images in image_sets(run.artifact("baseline"), run.artifact("evaluate")).items()
        for path in images.artifact.files()
        if path.startswith(f"{images.images}/")
        for row in images.artifact.read_table(path).to_pylist()
        if row["sample"] == 0
    }


def test_a_study_of_an_evaluation_shows_its_first_images(run, tmp_path):
    to = tmp_path / "study"
    arguments = ("--run", run.path, "--to", to, "--prompts", 9, "--raters", 3, "--prompt-following", "--json")
    made = json.loads(capo("make", *arguments).stdout)
    study = read_study(to)
    key = read_key(to, study)
    assert (made["study"], made["prompts"], made["pairs"], made["catch_trials"]) == (study.id, 9, 10, 1)
    assert made["votes"] == 3 * 10 * 2
    names = run.artifact("evaluate").read_json("results.json")["models"]
    assert {label: model.name for label, model in key.models.items()} == names
    pixels = first_images(run)
    for pair in study.pairs:
        entry = key.pairs[pair.pair]
        for image, label in ((pair.left, entry.left), (pair.right, entry.right)):
            shown = np.asarray(decode_image((to / PAGE / image.file).read_bytes()))
            assert (shown == pixels[label, entry.prompt_id]).all()
    again = json.loads(capo("make", "--run", run.path, "--to", tmp_path / "all", "--json").stdout)
    assert again["prompts"] == 36


def write_folder(folder, pixels, name_of):
    for (label, prompt), image in pixels.items():
        place = folder / label / name_of(prompt)
        place.mkdir(parents=True)
        (place / "00.png").write_bytes(tiny_run.png(image))


def shown(to):
    """By model and prompt, the pixels of a study."""
    study = read_study(to)
    key = read_key(to, study)
    return {
        (label, pair.prompt): np.asarray(decode_image((to / PAGE / image.file).read_bytes()))
        for pair in study.pairs
        for image, label in (
            (pair.left, key.pairs[pair.pair].left),
            (pair.right, key.pairs[pair.pair].right),
        )
    }


def test_a_study_of_folders_needs_no_recipe(run, tmp_path):
    pixels = first_images(run)
    prompts = {
        row["prompt_id"]: row["text"]
        for row in run.artifact("baseline").read_table("prompts.parquet").to_pylist()
    }
    two = {key: image for key, image in pixels.items() if key[1] in list(prompts)[:5] and key[0] != "null"}
    write_folder(tmp_path, two, lambda prompt: prompts[prompt])
    sides = ("--base", tmp_path / "base", "--tuned", tmp_path / "tuned")
    made = json.loads(capo("make", *sides, "--to", tmp_path / "study", "--json").stdout)
    assert made["prompts"] == 5
    images = shown(tmp_path / "study")
    assert all((images[label, prompts[prompt]] == image).all() for (label, prompt), image in two.items())
    equal = [(two["base", prompt] == two["tuned", prompt]).all() for label, prompt in two if label == "base"]
    assert made["equal_images"] == sum(equal) == 3
    assert "3 pairs with two equal images" in capo("make", *sides, "--to", tmp_path / "printed").stdout
    for option, path in (("--base", tmp_path / "base"), ("--tuned", tmp_path / "tuned")):
        result = capo("make", *sides, "--more", path, "--to", tmp_path / "same", code=1)
        assert f"{option} and --more" in result.stderr
    (tmp_path / "tuned" / prompts[next(iter(prompts))] / "00.png").unlink()
    result = capo("make", *sides, "--to", tmp_path / "other", code=1)
    assert "has 0 images" in result.stderr


def same_model(checkpoint, to):
    """Copy a checkpoint so that it makes the same images, but has other files."""
    copy = Path(shutil.copytree(checkpoint, to))
    (copy / "vae" / "config.json").write_text((copy / "vae" / "config.json").read_text() + "\n")
    return copy


def test_models_sample_with_the_same_noise_and_only_once(sdxl, tmp_path, monkeypatch):
    """The recipe's own model and one of the same weights are indistinguishable; a folder joins them."""
    texts = ("a red circle", "three", "blue")
    (tmp_path / "prompts.txt").write_text("\n".join(texts))
    recipe = tiny_run.recipe(
        [{"name": "red", "source": "function_rewards:redness"}],
        tmp_path / "prompts.txt",
        model={"checkpoint": str(sdxl)},
        generate={"num_inference_steps": 1, "shard_prompts": 2},
    )
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    write_folder(tmp_path, {("images", text): noise for text in texts}, lambda text: text)
    arguments = (tmp_path / "recipe.yaml", "--run", tmp_path / "run", "--catches", 0)
    arguments += ("--tuned", same_model(sdxl, tmp_path / "other"), "--more", tmp_path / "images")
    capo("make", *arguments, "--to", tmp_path / "study")
    images = shown(tmp_path / "study")
    for text in texts:
        assert (images["base", text] == images["tuned", text]).all()
        assert (images["more1", text] == noise).all()
    assert len({image.tobytes() for image in images.values()}) == 4
    monkeypatch.setattr("capo.evaluation.candidate_images.run_sampling", None)  # would fail
    capo("make", *arguments, "--to", tmp_path / "again")
    assert read_study(tmp_path / "again") == read_study(tmp_path / "study")


def test_what_does_not_fit_is_refused_before_sampling(sdxl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("capo.evaluation.candidate_images.run_sampling", None)  # would fail
    (tmp_path / "prompts.txt").write_text("a red circle")
    recipe = tiny_run.recipe(
        [{"name": "red", "source": "function_rewards:redness"}],
        tmp_path / "prompts.txt",
        model={"checkpoint": str(sdxl)},
    )
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    to = ("--to", "study")
    assert "--tuned" in capo("make", "recipe.yaml", *to, code=1).stderr
    assert "nowhere" in capo("make", "recipe.yaml", *to, "--tuned", "nowhere", code=1).stderr
    for option in ("--base", "--tuned", "--more"):
        assert f"{option}: nowhere" in capo("make", *to, option, "nowhere", code=1).stderr
        missing = capo("make", *to, option, "imgs/nope", code=1).stderr
        assert missing.startswith(f"Error: {option}: there is no folder 'imgs/nope'")
    save_file({"unet.x.lora_A.weight": torch.zeros(1)}, "style.safetensors")
    assert "--more: style.safetensors" in capo("make", *to, "--more", "style.safetensors", code=2).stderr
    (tmp_path / "study").mkdir()
    assert (
        "exists already"
        in capo("make", "recipe.yaml", *to, "--tuned", same_model(sdxl, "other"), code=1).stderr
    )
    assert "--base and --tuned" in capo("make", "recipe.yaml", "--to", "new", "--tuned", sdxl, code=1).stderr
    assert "--run" in capo("make", *to, code=2).stderr


def test_what_cannot_be_made_is_said(run, tmp_path):
    to = ("--to", tmp_path / "study")
    assert "36 prompts" in capo("make", "--run", run.path, *to, "--prompts", 37, code=1).stderr
    assert "https" in capo("make", "--run", run.path, *to, "--post", "file:///tmp", code=1).stderr
    assert "--set" in capo("make", "--run", run.path, *to, "--set", "seed=4", code=1).stderr
    assert not (tmp_path / "study").exists()
