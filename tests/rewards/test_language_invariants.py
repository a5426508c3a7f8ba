"""Properties of the rewards that read the prompt, for any weights: batches, order, images, prompts."""

import numpy as np
import pytest
from PIL import Image

import tiny_language_rewards
import tiny_rewards
from capo.recipe import RewardSection
from capo.rewards import load_reward, score_images

REWARDS = {
    "imagereward": ("imagereward", lambda folder: tiny_language_rewards.blip_judge(folder, [0, 2, 4, 6, 7])),
    "cyclereward": ("cyclereward", lambda folder: tiny_language_rewards.blip_judge(folder, [0, 2, 4, 6, 8])),
    "clip-flant5": ("vqascore-clip-flant5-xl", tiny_language_rewards.clip_t5),
    "hpsv3": ("hpsv3", tiny_language_rewards.hpsv3),
    "qwen3-vl": ("vqascore-qwen3-vl", tiny_language_rewards.qwen3_vl),
    "internvl": ("vqascore", tiny_language_rewards.internvl),
    "smolvlm": ("vqascore", tiny_language_rewards.smolvlm),
    "rating": ("q-realign-quality", tiny_language_rewards.qwen3_vl),
}
BLIND = ("rating",)


@pytest.fixture(scope="module", params=REWARDS)
def reward(request, tmp_path_factory):
    source, build = REWARDS[request.param]
    folder = tmp_path_factory.mktemp("invariants")
    (folder / "words.txt").write_text("Rate {text_prompt} : <|Reward|> .", encoding="utf-8")
    options = {"instruction": str(folder / "words.txt")} if source == "hpsv3" else {}
    section = RewardSection(
        name=request.param, source=source, checkpoint=str(build(folder / "weights")), options=options
    )
    return load_reward(section, "cpu")


def test_batch_and_order_do_not_matter(reward, images, prompts):
    whole = reward.score(images, prompts)
    assert whole.dtype == np.float64
    assert whole.shape == (6,)
    assert len(set(whole)) == 6
    for size in (1, 4):
        split = [scored.score for scored in score_images(reward, images, prompts, size)]
        np.testing.assert_allclose(split, whole, rtol=1e-4, atol=1e-6)
    order = [4, 2, 0, 5, 1, 3]
    permuted = reward.score([images[i] for i in order], [prompts[i] for i in order])
    np.testing.assert_allclose(permuted, whole[order], rtol=1e-4, atol=1e-6)


def test_the_prompt_matters_unless_the_reward_is_a_rating(reward, images):
    first, second = reward.score(images[:1] * 2, ["two red circle", "green"])
    assert (first == pytest.approx(second, rel=1e-5)) == (reward.name in BLIND)


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "I;16"])
def test_accepts_images_of_any_mode(reward, images, mode):
    image = images[0].convert("L").convert(mode) if mode == "I;16" else images[0].convert(mode)
    assert np.isfinite(reward.score([image], ["a red circle"])).all()


def test_applies_exif_orientation(reward, images):
    rotated = images[1].copy()
    rotated.getexif()[0x0112] = 6
    upright = images[1].transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(reward.score([rotated], ["a"]), reward.score([upright], ["a"]))


@pytest.mark.parametrize("size", [(1, 1), (1200, 900)])
def test_accepts_tiny_and_huge_images(reward, size):
    assert np.isfinite(reward.score([Image.new("RGB", size, "teal")], ["a red circle"])).all()


def test_a_long_strip_gets_a_score_or_a_reason(reward):
    """Qwen-VL accepts no image that is 200 times as long as wide."""
    (scored,) = score_images(reward, [Image.new("RGB", (1, 1000), "teal")], ["a red circle"], 1)
    assert scored.score is not None or "aspect ratio must be smaller than 200" in scored.error


@pytest.mark.parametrize("prompt", ["", "   ", "\N{BICYCLE} ünï {} {0} %s ç", "a red circle " * 60])
def test_accepts_any_prompt(reward, images, prompt):
    assert np.isfinite(reward.score(images[:2], [prompt, "a"])).all()


def test_a_missing_package_of_a_processor_is_named(tmp_path, monkeypatch):
    import transformers.models.qwen2_5_vl.processing_qwen2_5_vl as module

    from capo.rewards import RewardError

    def raise_import_error(*parts, **named):
        raise ImportError("Package `words2num` is required")

    folder = tiny_rewards.qwen(tmp_path)
    monkeypatch.setattr(module.Qwen2_5_VLProcessor, "__init__", raise_import_error)
    with pytest.raises(RewardError, match="words2num"):
        load_reward(RewardSection(name="r", source="vqascore", checkpoint=str(folder)), "cpu")
