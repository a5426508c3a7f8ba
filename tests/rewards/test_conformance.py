"""The check of a reward, and that every basic architecture passes it with any weights."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_rewards
from capo import BradleyTerry, PowerRatio
from capo.recipe import RewardSection
from capo.rewards import build_comparison, load_reward
from capo.rewards.checking.conformance import check_reward
from capo.rewards.checking.trial_images import trial_images

ARCHITECTURES = {
    "clip": "pickscore",
    "vqa": "vqascore",
    "decoder": "shapes-vqa",
    "aesthetic": "shapes-aesthetic",
    "hpsv2": "hpsv2",
    "mps": "mps",
    "clipscore": "clipscore",
    "laion": "laion-aesthetic",
    "siglip": "aesthetic-v2.5",
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def reward(request, checkpoints):
    source = ARCHITECTURES[request.param]
    section = RewardSection(name="mine", source=source, checkpoint=str(checkpoints[request.param]))
    return load_reward(section, "cpu")


def test_returns_one_different_float64_per_image(reward, images, prompts):
    scores = reward.score(images, prompts)
    assert scores.dtype == np.float64
    assert scores.shape == (6,)
    assert len(set(scores)) == 6
    assert reward.name == "mine"


def test_conforms(reward, images, prompts):
    assert [check for check in check_reward(reward, images, prompts).checks if check.problem] == []


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "LA", "1", "CMYK", "I;16"])
def test_accepts_images_of_any_mode(reward, images, mode):
    image = images[0].convert("L").convert(mode) if mode == "I;16" else images[0].convert(mode)
    assert np.isfinite(reward.score([image], ["a red circle"])).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2000, 1500)])
def test_accepts_tiny_and_huge_images(reward, size):
    assert np.isfinite(reward.score([Image.new("RGB", size, "teal")], ["a red circle"])).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_declared_comparison_needs_no_weights(architecture):
    section = RewardSection(name=ARCHITECTURES[architecture], checkpoint="some/repository")
    assert callable(build_comparison(section))


def test_tiny_checkpoints_are_reproducible(tmp_path):
    """Otherwise the tests above would not be deterministic."""
    first, second = (tiny_rewards.clip(tmp_path / name) for name in "ab")
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


# Rewards that break one rule.


class Faulty:
    """Scores by brightness, with one fault."""

    name = "faulty"
    comparison = BradleyTerry()

    def __init__(self, **fault):
        self.calls = 0
        self.fault = fault
        if "comparison" in fault:
            self.comparison = fault["comparison"]
        self.range = fault.get("range")

    def score(self, images, prompts):
        self.calls += 1
        means = np.array([np.asarray(image).mean() / 255 for image in images])
        return self.fault["score"](self, means, prompts) if "score" in self.fault else means


def reject_empty(self, means, prompts):
    if "" in prompts:
        raise ValueError("no prompt")
    return means


@pytest.mark.parametrize(
    ("fault", "what", "problem"),
    [
        ({"score": lambda r, m, p: m[:, None]}, "returns one number per image", r"got shape \(6, 1\)"),
        ({"score": lambda r, m, p: m[:-1]}, "returns one number per image", r"got shape \(5,\)"),
        ({"score": lambda r, m, p: [*m[:-1], None]}, "returns finite numbers for ordinary images", "1 of 6"),
        ({"score": lambda r, m, p: m + r.calls}, "returns the same numbers on a second call", "image 1"),
        ({"score": lambda r, m, p: m - m.mean()}, "scores an image the same in a batch and alone", "image 1"),
        ({"score": lambda r, m, p: m + np.arange(len(m))}, "scores an image the same in any order", "image"),
        ({"score": reject_empty}, "accepts an empty prompt", "ValueError: no prompt"),
        ({"range": (0.6, 1.0)}, "stays within its declared range", "is outside 0.6 to 1"),
        (
            {"score": lambda r, m, p: -m, "comparison": PowerRatio()},
            "is never negative, as the power ratio requires",
            "outside 0 to inf",
        ),
        ({"comparison": None}, "declares how its scores compare", "must set `comparison`"),
        (
            {"comparison": lambda a, b: a / a * 0.6 + 0 * b},
            "declares how its scores compare",
            "do not add up",
        ),
        (
            {"comparison": lambda a, b: torch.sigmoid(b - a)},
            "declares how its scores compare",
            "wins less often",
        ),
        ({"comparison": lambda a: a}, "declares how its scores compare", "TypeError"),
    ],
)
def test_a_broken_rule_is_reported(images, prompts, fault, what, problem):
    report = check_reward(Faulty(**fault), images, prompts)
    assert not report.passed
    problems = {check.what: check.problem for check in report.checks}
    assert re.search(problem, problems[what])


def test_a_batch_may_change_scores_within_half_precision(images, prompts):
    def rounded(self, means, prompts):
        return means + 1e-4 * np.ptp(means) * len(means)

    assert check_reward(Faulty(score=rounded), images, prompts).passed


def test_trial_images_are_the_same_on_every_call():
    first, second = trial_images(), trial_images()
    assert first[1] == second[1]
    assert [image.tobytes() for image in first[0]] == [image.tobytes() for image in second[0]]
