"""What every shipped architecture must keep to, whatever its weights."""

import numpy as np
import pytest
from PIL import Image

import tiny_rewards
from capo.recipe import RewardSection
from capo.rewards import build_comparison, load_reward, score_images

ARCHITECTURES = {
    "clip": "pickscore",
    "vqa": "vqascore",
    "decoder": "shapes-vqa",
    "aesthetic": "shapes-aesthetic",
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def reward(request, checkpoints):
    source = ARCHITECTURES[request.param]
    section = RewardSection(name="mine", source=source, checkpoint=str(checkpoints[request.param]))
    return load_reward(section, "cpu")


def test_returns_float64_one_a_pair_that_differ(reward, images, prompts):
    scores = reward.score(images, prompts)
    assert scores.dtype == np.float64
    assert scores.shape == (6,)
    assert len(set(scores)) == 6
    assert reward.name == "mine"


def test_is_deterministic(reward, images, prompts):
    np.testing.assert_array_equal(reward.score(images, prompts), reward.score(images, prompts))


def test_batch_split_does_not_matter(reward, images, prompts):
    whole = reward.score(images, prompts)
    for size in (1, 2, 4):
        split = [s.score for s in score_images(reward, images, prompts, size)]
        np.testing.assert_allclose(split, whole, rtol=1e-5, atol=1e-5)


def test_permuting_the_batch_permutes_the_scores(reward, images, prompts):
    order = [4, 2, 0, 5, 1, 3]
    permuted = reward.score([images[i] for i in order], [prompts[i] for i in order])
    np.testing.assert_allclose(permuted, reward.score(images, prompts)[order], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "LA", "1", "CMYK", "I;16"])
def test_takes_images_of_any_mode(reward, images, mode):
    image = images[0].convert("L").convert(mode) if mode == "I;16" else images[0].convert(mode)
    assert np.isfinite(reward.score([image], ["a red circle"])).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2000, 1500)])
def test_takes_tiny_and_huge_images(reward, size):
    assert np.isfinite(reward.score([Image.new("RGB", size, "teal")], ["a red circle"])).all()


@pytest.mark.parametrize("prompt", ["", "   ", "\N{BICYCLE} ünï ç", "a red circle " * 300])
def test_takes_any_prompt(reward, images, prompt):
    assert np.isfinite(reward.score(images[:2], [prompt, "a"])).all()


def test_comparison_gives_probabilities(reward, images, prompts):
    import torch

    scores = torch.from_numpy(reward.score(images, prompts))
    wins = reward.comparison(scores[:, None], scores[None, :])
    torch.testing.assert_close(wins + wins.T, torch.ones_like(wins))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_declared_comparison_needs_no_weights(architecture):
    section = RewardSection(name=ARCHITECTURES[architecture], checkpoint="some/repository")
    assert callable(build_comparison(section))


def test_checkpoints_are_built_alike(tmp_path):
    """The helper is deterministic, or the tests above would not be."""
    first, second = (tiny_rewards.clip(tmp_path / name) for name in "ab")
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
