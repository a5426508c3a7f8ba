import numpy as np
import pytest
from PIL import Image

import tiny_clip_rewards
import tiny_rewards


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """One checkpoint folder per architecture."""
    root = tmp_path_factory.mktemp("rewards")
    return {
        "clip": tiny_rewards.clip(root / "clip"),
        "vqa": tiny_rewards.vqa(root / "vqa"),
        "decoder": tiny_rewards.decoder_vqa(root / "decoder"),
        "aesthetic": tiny_rewards.rater(root / "rater"),
        "hpsv2": tiny_clip_rewards.open_clip(root / "hpsv2"),
        "mps": tiny_clip_rewards.mps(root / "mps"),
        "clipscore": tiny_clip_rewards.tower(root / "clipscore"),
        "laion": tiny_clip_rewards.laion(root / "laion"),
        "siglip": tiny_clip_rewards.siglip(root / "siglip"),
    }


@pytest.fixture(scope="session")
def images():
    """Six images of different sizes."""
    rng = np.random.default_rng(0)
    sizes = [(16, 16), (20, 30), (40, 17), (16, 32), (33, 33), (64, 20)]
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


@pytest.fixture(scope="session")
def prompts():
    """Six prompts of different lengths, two of them equal."""
    return [
        "a red circle",
        "two blue circle and a red triangle",
        "a red circle",
        "green square",
        "a",
        "a red circle and a green triangle and two blue square",
    ]
