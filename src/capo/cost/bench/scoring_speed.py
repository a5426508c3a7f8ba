"""Images per second of every reward in the recipe, and prompts per second of calibration and pairing."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image

from capo.cost.bench.measure import Case, Work
from capo.cost.bench.subject import Subject, changed, prompts
from capo.diffusion import load_family
from capo.diffusion.random_weights import RandomWeights
from capo.pairing.selecting import make_pairs, selection_rule
from capo.recipe import RewardSection
from capo.rewards import build_comparison, load_reward, score_images

IMAGES = 64
PROMPTS = 100_000
"""As many as in the paper."""


def score_cases(subject: Subject) -> list[Case]:
    """Every reward on images in memory: one at a time, and in batches of the recipe's size."""
    meta = torch.device("meta")
    family = load_family(subject.recipe.model, meta, RandomWeights(meta))
    height, width = family.image_size(subject.recipe.generate)
    images = [_picture(seed, (width, height)) for seed in range(IMAGES)]
    return [
        Case(name, _scoring(reward, images, subject.device, batch), IMAGES, subject.device)
        for reward in subject.recipe.rewards
        for name, batch in ((f"{reward.name}, one at a time", 1), (reward.name, reward.batch_size))
    ]


def pair_cases(subject: Subject) -> list[Case]:
    """Every selection on random scores for as many prompts as in the paper."""
    cpu = torch.device("cpu")
    return [
        Case(selection, _pairing(subject, selection), PROMPTS, cpu)
        for selection in ("frontier", "sum", "best-worst")
    ]


@contextmanager
def _scoring(
    reward: RewardSection, images: Sequence[Image.Image], device: torch.device, batch: int
) -> Iterator[Work]:
    model = load_reward(reward, device)
    texts = [prompt.text for prompt in prompts(len(images))]
    yield lambda: score_images(model, images, texts, batch)


@contextmanager
def _pairing(subject: Subject, selection: str) -> Iterator[Work]:
    rewards = subject.recipe.training_rewards
    comparisons = [build_comparison(reward) for reward in rewards]
    recipe = changed(subject.recipe, pairs={"selection": selection, "reward": rewards[0].name})
    # Scores in (0, 1), where every comparison is defined.
    shape = (PROMPTS, recipe.generate.samples_per_prompt, len(rewards))
    scores = np.random.default_rng(0).random(shape)
    rule = selection_rule(recipe.pairs, recipe.training_rewards)
    yield lambda: make_pairs(scores, comparisons, rule)


def _picture(seed: int, size: tuple[int, int]) -> Image.Image:
    """Smooth random colors, which cost as much to resize as any picture."""
    colors = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(colors).resize(size, Image.Resampling.BICUBIC)
