"""Measure the accuracy of the embedded rewards and the judge, on prompts that no checkpoint was trained on.

    python benchmarks/shapes_rewards.py [EXAMPLES]

Prints the tables of docs/concepts/embedded-world.md as Markdown and writes no files. EXAMPLES (1000) is the
number of preferences, questions, ratings and renders; the base model generates a quarter as many images.
"""

import random
import sys
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from scipy.stats import rankdata
from torch import Tensor

from capo import load_recipe
from capo.diffusion import load_family
from capo.engine.seeds import initial_noise, stable_seed
from capo.recipe import RewardSection
from capo.rewards import Reward, load_reward
from capo.shapes.build import drawn_data as data
from capo.shapes.drawing import draw
from capo.shapes.grammar import CATEGORIES, draw_specs, grammar
from capo.shapes.judge import judge, satisfies
from capo.shapes.layout import corrupt, scene_of
from capo.shapes.simulated_raters import prefer

REWARDS = ("shapes-preference", "shapes-vqa", "shapes-vqa-1", "shapes-aesthetic", "shapes-heldout")
READERS = ("shapes-vqa", "shapes-vqa-1")
"""The rewards that answer whether an image shows its prompt."""
SEED = 1000  # far from the seeds of training
SPLIT = "test"
PEOPLE = 100
"""Simulated people who compare a pair. Their agreement is the ceiling for any reward."""
SAMPLES = 8
CATEGORY = {spec.text: spec.category for specs in grammar(SPLIT).values() for spec in specs}


def main(examples: int) -> None:
    torch.set_num_threads(1)
    rewards = {name: load_reward(RewardSection(name=name), "cpu") for name in REWARDS}
    print(f"{examples} examples, torch {torch.__version__}\n")
    print_accuracy(rewards, examples)
    for name in READERS:
        print_alignment(rewards[name], examples)
    print_correlations(rewards, examples // 4)
    print_judge(examples)


def print_accuracy(rewards: dict[str, Reward], examples: int) -> None:
    """Print the accuracy of every reward on all three tasks; it was trained on one or two of them."""
    opinions = data.preferences(examples, SEED, "cpu", SPLIT)
    questions = data.questions(examples, SEED, "cpu", SPLIT)
    rated = data.ratings(examples, SEED, "cpu", SPLIT)
    decided = (opinions.labels != 0.5).numpy()
    first = opinions.labels.numpy() == 1
    rows = []
    for name, reward in rewards.items():
        left, right = (scores(reward, opinions.images[:, k], opinions.texts) for k in range(2))
        agreed = ((left > right) == first)[decided].mean()
        shows = scores(reward, questions.images, questions.texts)
        ratings = scores(reward, rated.images, questions.texts)  # any prompts: only a rater ignores them
        row = (agreed, ranked(shows, questions.answers.numpy()))
        rows.append((f"`{name}`", *row, np.corrcoef(ratings, rated.ratings)[0, 1]))
    noise = 1 - 0.5**2 / float(rated.ratings.var())  # 0.5: the error of `data.ratings`
    rows.append(("ceiling", agreement(examples), 1.0, noise**0.5))
    header = ("", "agrees with a person", "ranks faithful above unfaithful", "correlation with ratings")
    print_table(header, rows)


def print_alignment(reward: Reward, examples: int) -> None:
    """Print the accuracy of yes (above 1/2) or no by category; half of the images match their prompts."""
    questions = data.questions(examples, SEED, "cpu", SPLIT)
    right = (scores(reward, questions.images, questions.texts) > 0.5) == questions.answers.numpy()
    print_by_category(f"`{reward.name}`", [CATEGORY[text] for text in questions.texts], right)


def print_correlations(rewards: dict[str, Reward], images: int) -> None:
    """Print correlations between rewards, and with the judge, within the base samples of a prompt."""
    recipe = load_recipe("shapes")
    specs = draw_specs(SPLIT, max(1, images // SAMPLES), SEED)
    family = load_family(recipe.model, torch.device("cpu"))
    shape = family.latent_shape(recipe.generate)
    seeds = [stable_seed("benchmark", spec.text, k) for spec in specs for k in range(SAMPLES)]
    noise = torch.stack([initial_noise(seed, shape) for seed in seeds])
    texts = [spec.text for spec in specs for _ in range(SAMPLES)]
    latents = family.sample(family.encode(texts), family.unconditional(), noise, recipe.generate)
    made = family.decode(latents)
    columns = {name: reward.score(made, texts) for name, reward in rewards.items()}
    metadata = [spec.metadata for spec in specs for _ in range(SAMPLES)]
    verdicts = [judge(np.asarray(image), wanted) for image, wanted in zip(made, metadata, strict=True)]
    columns["judge"] = np.array(verdicts, dtype=np.float64)
    found = np.corrcoef([within_prompt(values) for values in columns.values()])
    share = columns["judge"].mean()
    categories = [spec.category for spec in specs for _ in range(SAMPLES)]
    for name in READERS:
        right = (columns[name] > 0.5) == (columns["judge"] == 1)
        print_by_category(f"`{name}`, images of the base", categories, right)
    print(f"{len(made)} images of {len(specs)} prompts by the base; the judge accepts {share:.3f}\n")
    labels = [f"`{name}`" if name in rewards else name for name in columns]
    print_table(("", *labels), [(label, *row) for label, row in zip(labels, found, strict=True)])


def print_judge(examples: int) -> None:
    """Print the judge's accuracy on clean renders, alternating between a match and a near miss."""
    rng = random.Random(f"judge/{SEED}")
    specs = [data.random_spec(rng, SPLIT) for _ in range(examples)]
    drawn = [corrupt(spec, rng) if index % 2 else spec for index, spec in enumerate(specs)]
    scenes = [scene_of(spec, rng) for spec in drawn]
    images = draw(scenes).permute(0, 2, 3, 1).numpy()
    right = []
    for spec, shown, scene, image in zip(specs, drawn, scenes, images, strict=True):
        shows = satisfies(scene.items, spec.metadata) and spec.background in (None, shown.background)
        right.append(judge(image, spec.metadata) == shows)
    print_by_category("judge", [spec.category for spec in specs], np.array(right))


def agreement(examples: int) -> float:
    """Return how often one person agrees with the majority of the others, ignoring ties."""
    rng = random.Random(f"people/{SEED}")
    agreed: list[bool] = []
    for _ in range(examples):
        spec = data.random_spec(rng, SPLIT)
        pair, blurs = [data.attempt(spec, rng) for _ in range(2)], [data.random_blur(rng) for _ in range(2)]
        votes = [prefer(pair, spec, rng, blurs) for _ in range(PEOPLE)]
        majority = float(np.mean(votes[1:]) > 0.5)
        if votes[0] != 0.5:
            agreed.append(votes[0] == majority)
    return float(np.mean(agreed))


def scores(reward: Reward, images: Tensor, texts: Sequence[str]) -> np.ndarray:
    """Return scores [n] of uint8 images [n, 3, H, W], in batches as in the stage `score`."""
    pictures = [Image.fromarray(pixels) for pixels in images.permute(0, 2, 3, 1).numpy()]
    parts = range(0, len(pictures), 64)
    return np.concatenate([reward.score(pictures[i : i + 64], list(texts[i : i + 64])) for i in parts])


def ranked(values: np.ndarray, positive: np.ndarray) -> float:
    """Return the area under the ROC curve: how often a positive outranks a negative; ties count half."""
    yes = positive.astype(bool)
    above = rankdata(values)[yes].sum() - yes.sum() * (yes.sum() + 1) / 2
    return float(above / (yes.sum() * (~yes).sum()))


def within_prompt(values: np.ndarray) -> np.ndarray:
    """Return differences from the mean of the prompt, which is what pairs are based on."""
    grouped = values.reshape(-1, SAMPLES)
    return (grouped - grouped.mean(axis=1, keepdims=True)).ravel()


def print_by_category(label: str, categories: Sequence[str], right: np.ndarray) -> None:
    of_category = defaultdict(list)
    for category, each in zip(categories, right, strict=True):
        of_category[category].append(each)
    means = [float(np.mean(of_category[category])) for category in CATEGORIES]
    print_table(("", *CATEGORIES, "all"), [(label, *means, float(right.mean()))])


def print_table(header: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
    print("| " + " | ".join(header) + " |")
    print("|---|" + "--:|" * (len(header) - 1))
    for label, *values in rows:
        print(f"| {label} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    print(flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
