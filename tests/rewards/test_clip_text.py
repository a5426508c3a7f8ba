"""Cleaning of prompts, which decides what HPSv2 reads."""

import numpy as np
import pytest
from PIL import Image

import tiny_clip_rewards
from capo.recipe import RewardSection
from capo.rewards import load_reward
from capo.rewards.models.clip_text import clean_text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a sign that says “open”, it’s new", 'a sign that says "open", it\'s new'),
        ("salt &amp;amp; pepper", "salt & pepper"),  # escaped twice
        ("a cafÃ©", "a café"),  # UTF-8 read as Latin-1
        (" a\n\tred  dog ", "a red dog"),
        ("ﬁne ｗｉｄｅ", "fine wide"),
        ('plain "text", nothing to do', 'plain "text", nothing to do'),
    ],
)
def test_clean_text(text, cleaned):
    assert clean_text(text) == cleaned


def test_hpsv2_reads_the_cleaned_prompt(tmp_path):
    checkpoint = str(tiny_clip_rewards.open_clip(tmp_path))
    reward = load_reward(RewardSection(name="hpsv2", checkpoint=checkpoint), "cpu")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    dirty, clean, other = reward.score([image] * 3, ["a &amp;  b’s", "a & b's", "a & b"])
    assert dirty == clean != other
