"""ImageReward and CycleReward against the arithmetic of ViT and BERT, as their papers define it."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import gelu

import tiny_language_rewards
from blip_equations import BlipEquations
from capo import BradleyTerry
from capo.recipe import RewardSection
from capo.rewards import RewardError, build_comparison, load_reward
from capo.rewards.protocol import Truncating
from tiny_language_rewards import PIXELS, VOCABULARY

PATCHES = "blip.visual_encoder.patch_embed.proj.weight"
IMAGE_REWARD, CYCLE_REWARD = [0, 2, 4, 6, 7], [0, 2, 4, 6, 8]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("blip")
    return {
        "imagereward": tiny_language_rewards.blip_judge(root / "imagereward", IMAGE_REWARD),
        "cyclereward": tiny_language_rewards.blip_judge(root / "cyclereward", CYCLE_REWARD),
    }


@pytest.fixture(scope="module")
def squares():
    pixels = np.random.default_rng(1).integers(0, 256, (3, PIXELS, PIXELS, 3), dtype=np.uint8)
    return [Image.fromarray(image) for image in pixels]


PROMPTS = ["a red circle", "two blue circle and a red triangle", "green"]


def load(source, place):
    return load_reward(RewardSection(name="r", source=source, checkpoint=str(place)), "cpu")


class Reference(BlipEquations):
    """A judge from its equations."""

    def __init__(self, positions):
        super().__init__(tiny_language_rewards.blip_weights(positions))
        self.positions = positions

    def judge(self, image, prompt, between):
        ids = [VOCABULARY[word] for word in prompt.split()]
        x = self.encode_text("blip.text_encoder", ids, self.encode_image("blip.visual_encoder", image))[0]
        for position in self.positions:
            x = self.linear(f"mlp.layers.{position}", x)
            x = x if position == self.positions[-1] else between(x)
        return float(x)


def test_image_reward_is_bert_over_vit(folders, squares):
    """(r - 0.16717362830052426) / 1.0333394966054072, with r from five linear layers without activations."""
    reference = Reference(IMAGE_REWARD)
    raw = [reference.judge(i, p, lambda x: x) for i, p in zip(squares, PROMPTS, strict=True)]
    expected = (np.array(raw) - 0.16717362830052426) / 1.0333394966054072
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(
        load("imagereward", folders["imagereward"]).score(squares, PROMPTS), expected, atol=1e-4
    )


def test_cycle_reward_has_gelus_and_no_normalization(folders, squares):
    reference = Reference(CYCLE_REWARD)
    expected = [reference.judge(i, p, gelu) for i, p in zip(squares, PROMPTS, strict=True)]
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(
        load("cyclereward", folders["cyclereward"]).score(squares, PROMPTS), expected, atol=1e-4
    )


def test_the_comparison_undoes_the_normalization(folders):
    """Training compared r, which is the score times its standard deviation plus a constant."""
    comparison = build_comparison(RewardSection(name="imagereward"))
    wins = comparison(torch.tensor(0.5), torch.tensor(0.2))
    assert wins.item() == pytest.approx(1 / (1 + math.exp(-1.0333394966054072 * 0.3)))
    assert build_comparison(RewardSection(name="cyclereward")) == BradleyTerry(1.0)


@pytest.mark.parametrize(("source", "tokens"), [("imagereward", 35), ("cyclereward", 128)])
def test_long_prompts_are_cut_and_reported(folders, squares, source, tokens):
    reward = load(source, folders[source])
    assert isinstance(reward, Truncating)
    whole, longer = "red " * tokens, "red " * tokens + "blue"
    assert reward.truncated(["", whole, longer, "green"]) == [False, False, True, False]
    first, second = reward.score(squares[:1] * 2, [whole, longer])
    assert first == pytest.approx(second, rel=1e-5)


def test_oblong_images_are_cropped_to_the_center(folders):
    """The center square of the shorter side, equal to torchvision's resize and crop."""
    from capo.rewards.models.blip_inputs import center_square

    oblong = Image.linear_gradient("L").convert("RGB").resize((96, 64))
    whole = oblong.resize((48, 32), Image.Resampling.BICUBIC).crop((8, 0, 40, 32))
    np.testing.assert_array_equal(np.asarray(center_square(oblong, 32)), np.asarray(whole))
    assert center_square(Image.new("RGB", (1, 4000)), 32).size == (32, 32)


def test_a_local_pickle_of_tensors_is_read(folders, squares, tmp_path):
    """The official release is one; its tokenizer comes from `processor`, else from BERT."""
    from capo.rewards.models.image_reward import ImageReward

    path = tmp_path / "ImageReward.pt"
    torch.save(tiny_language_rewards.blip_weights(IMAGE_REWARD), path)
    reward = ImageReward("r", str(path), "cpu", str(folders["imagereward"]))
    expected = load("imagereward", folders["imagereward"]).score(squares, PROMPTS)
    np.testing.assert_array_equal(reward.score(squares, PROMPTS), expected)


def test_pickles_with_code_and_folders_of_pickles_are_rejected(tmp_path):
    torch.save({"model": Reference}, tmp_path / "code.pt")
    with pytest.raises(RewardError, match=r"code\.pt contains more than tensors.*as safetensors"):
        load("imagereward", tmp_path / "code.pt")
    with pytest.raises(RewardError, match=r"has no safetensors file.*to the file itself"):
        load("imagereward", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: w.pop("blip.text_encoder.encoder.layer.1.output.dense.bias"),
            "lacks weights of BlipJudge",
        ),
        (lambda w: w.pop("blip.visual_encoder.pos_embed"), "layout of ImageReward: vision"),
        (lambda w: w.update({"blip.text_encoder.pooler.dense.bias": torch.ones(3)}), "has unknown weights"),
        (
            lambda w: w.update({PATCHES: w[PATCHES][:32].contiguous()}),
            "its vision is 32 wide, not a multiple of 64",
        ),
        (lambda w: w["mlp.layers.0.bias"].fill_(float("nan")), "not finite: head.0.bias"),
        (lambda w: w.update({"mlp.layers.0.bias": torch.ones(3)}), "does not fit BlipJudge"),
    ],
)
def test_incomplete_weights_are_rejected(tmp_path, change, message):
    weights = tiny_language_rewards.blip_weights(IMAGE_REWARD)
    change(weights)
    path = tmp_path / "judge.pt"
    torch.save(weights, path)
    with pytest.raises(RewardError, match=message):
        load("imagereward", path)
