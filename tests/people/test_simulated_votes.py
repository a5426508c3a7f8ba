"""Simulated raters of the embedded world drive the analysis, which recovers what they think."""

import functools
import json
import random

import pytest
from PIL import Image
from typer.testing import CliRunner

from capo.cli import app
from capo.images.encoding import encode_image
from capo.pairing.simulated_people import load_people
from capo.people import clustered
from capo.people.analysis import analyze
from capo.people.build_study import ModelImages, StudySettings, build_study
from capo.people.collect import add_votes
from capo.people.human_study import read_key, read_study
from capo.people.simulated_votes import CONDUCTS, Conduct, SimulatedRaters
from capo.people.votes import VoteLine
from capo.people.votes_report import write_votes_report
from capo.prompts import load_prompts
from capo.recipe import PromptsSection
from capo.shapes.drawing import draw
from capo.shapes.grammar import spec_of
from capo.shapes.layout import corrupt, scene_of

PROMPTS = load_prompts(PromptsSection(source="shapes:test", count=24), seed=0)


def image(prompt, right):
    """The file of an image that shows the prompt, or a near miss."""
    rng = random.Random(prompt.text)
    spec = spec_of(prompt.metadata)
    pixels = draw([scene_of(spec if right else corrupt(spec, rng), rng)])[0]
    return encode_image(Image.fromarray(pixels.permute(1, 2, 0).numpy()), "png")


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(clustered, "RESAMPLES", 199)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study of a model that shows every prompt against one that shows none."""
    folder = tmp_path_factory.mktemp("studies") / "study"
    models = {
        "base": ModelImages("base", "base", lambda prompt: image(prompt, right=False)),
        "tuned": ModelImages("tuned", "tuned", lambda prompt: image(prompt, right=True)),
    }
    build_study(folder, PROMPTS, models, StudySettings(catches=8))
    return folder


@functools.cache
def votes_of(folder, rater, conduct):
    study = read_study(folder)
    prompts = {prompt.text: prompt for prompt in PROMPTS}
    raters = SimulatedRaters(folder, study, read_key(folder, study), load_people("shapes"), prompts)
    about = {"study": study.id, "rater": rater}
    return [VoteLine.model_validate(vote | about) for vote in raters.ballot(rater, conduct)["votes"]]


def results_of(folder, conducts):
    """Return the results with a rater for every conduct."""
    study = read_study(folder)
    votes = [vote for rater, conduct in conducts.items() for vote in votes_of(folder, rater, conduct)]
    return analyze(study, read_key(folder, study), votes)


def test_the_analysis_recovers_what_raters_do(folder):
    careful = {f"careful-{n}": Conduct() for n in range(4)}
    clear = results_of(folder, careful)["comparisons"][0]
    assert clear["win_rate"]["low"] > 0.6  # they see what the prompts ask for
    assert clear["alpha"] > 0.1

    noisy = results_of(folder, {name: Conduct(random=1.0) for name in careful})["comparisons"][0]
    assert noisy["win_rate"]["low"] < 0.5 < noisy["win_rate"]["high"]
    assert abs(noisy["alpha"]) < 0.25

    loyal = {f"loyal-{n}": Conduct(taste=-1.0) for n in range(2)}
    split = results_of(folder, careful | loyal)["comparisons"][0]["win_rate"]
    assert split["value"] == pytest.approx(clear["win_rate"]["value"] * 4 / 6)
    assert split["high"] - split["low"] > 1.3 * (clear["win_rate"]["high"] - clear["win_rate"]["low"])


def test_lazy_and_sided_raters_change_nothing(folder):
    careful = {f"careful-{n}": Conduct() for n in range(3)}
    bad = {"lazy": CONDUCTS["lazy"], "sided": CONDUCTS["sided"]}
    alone, together = results_of(folder, careful), results_of(folder, careful | bad)
    assert {rater["rater"] for rater in together["raters"] if rater["set_aside"]} == set(bad)
    assert together["comparisons"][0]["win_rate"] == alone["comparisons"][0]["win_rate"]
    assert (
        together["comparisons"][0]["with_all_raters"]["value"] < alone["comparisons"][0]["win_rate"]["value"]
    )


def test_a_rehearsal_is_read_like_votes_of_people(folder, tmp_path):
    made = CliRunner().invoke(
        app, ["people", "simulate", str(folder), "--to", str(tmp_path / "votes"), "--json",
              "--raters", "careful,careful,noisy"],
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    files = json.loads(made.stdout)["files"]
    added = add_votes(folder, [tmp_path / "votes" / name for name in map(_name, files)])
    assert [each.rater for each in added] == ["careful-1", "careful-2", "noisy-1"]
    assert {each.outcome for each in added} == {"added"}
    assert write_votes_report(folder)["comparisons"][0]["win_rate"]["value"] > 0.5
    other = CliRunner().invoke(
        app, ["people", "simulate", str(folder), "--to", str(tmp_path / "x"), "--prompts", "shapes:train"]
    )
    assert other.exit_code == 1
    assert "cannot judge" in other.output


def _name(path):
    return path.rpartition("/")[2]
