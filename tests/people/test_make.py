"""`capo people make`: from the evaluation of a run."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from capo.cli import app
from capo.evaluation.model_images import image_sets
from capo.people.human_study import PAGE, read_key, read_study
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


def test_what_cannot_be_made_is_said(run, tmp_path):
    to = ("--to", tmp_path / "study")
    assert "36 prompts" in capo("make", "--run", run.path, *to, "--prompts", 37, code=1).stderr
    assert "https" in capo("make", "--run", run.path, *to, "--post", "file:///tmp", code=1).stderr
    assert not (tmp_path / "study").exists()
