"""Training data of the checkpoints: drawn scenes, captions, and the opinions of simulated people."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from capo.shapes.drawing import draw
from capo.shapes.grammar import CATEGORIES, NUMBERS, RELATIONS, Spec, grammar
from capo.shapes.judge import satisfies
from capo.shapes.layout import corrupt, scene_of, swap_colors
from capo.shapes.scenes import SHAPES, Scene
from capo.shapes.simulated_raters import beauty, notices, prefer

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

# Error rates of the base model's captions, which determine how imperfectly it follows prompts.
FLIPPED_RELATION = 0.30
RANDOM_COUNT = 0.35
SWAPPED_COLORS = 0.25
WRONG_SHAPE = 0.12
WRONG_SINGLE = 0.10

QUESTIONED = {
    "single_object": 1,
    "colors": 1,
    "two_object": 1,
    "counting": 2,
    "position": 3,
    "color_attr": 2,
}
"""Relative frequency of categories for the question-answering reward; harder ones are more frequent."""

MEAN, DEVIATION = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
"""Normalization of the rewards' image processors, for pixels in [0, 1]."""

RECONSTRUCTED = 0.5
"""Share of the rewards' training images that are passed through the autoencoder."""


@dataclass(frozen=True)
class Captioned:
    """Images uint8 `[n, 3, H, W]` with one caption per image."""

    images: Tensor
    texts: list[str]


@dataclass(frozen=True)
class Rated:
    """Images with the rating of one person per image, 1 to 10."""

    images: Tensor
    ratings: Tensor


@dataclass(frozen=True)
class Questions:
    """Images with one prompt per image, and whether the image shows it."""

    images: Tensor
    texts: list[str]
    answers: Tensor


@dataclass(frozen=True)
class Contrasts:
    """Images with their scenes, a prompt that each shows, and prompts that it does not show."""

    images: Tensor
    scenes: list[Scene]
    shown: list[Spec]
    missed: list[list[Spec]]
    noticed: list[bool]
    """True if a person would say that the image shows its prompt."""


@dataclass(frozen=True)
class Preferences:
    """Two images per prompt `[n, 2, 3, H, W]`, with label 1 if the first was preferred, 0 or 1/2 (tie)."""

    images: Tensor
    texts: list[str]
    labels: Tensor


def random_spec(rng: random.Random, split: str = "train", odds: Mapping[str, int] | None = None) -> Spec:
    """Draw a prompt from a category drawn uniformly, or by `odds`."""
    category = rng.choices(list(odds), list(odds.values()))[0] if odds else rng.choice(CATEGORIES)
    return rng.choice(grammar(split)[category])


def captions(
    count: int, seed: int, device: str, *, noisy: bool = True, splits: Sequence[str] = ("train",)
) -> Captioned:
    """Draw scenes and captions to train a base model on; splits are drawn by their sizes."""
    rng = random.Random(f"captions/{seed}")
    sizes = [len(grammar(split)["color_attr"]) for split in splits]
    drawn = rng.choices(splits, sizes, k=count) if len(splits) > 1 else [splits[0]] * count
    specs = [random_spec(rng, split) for split in drawn]
    images = _draw([scene_of(spec, rng) for spec in specs], device)
    return Captioned(images, [(miscaption(spec, rng) if noisy else spec).text for spec in specs])


def miscaption(spec: Spec, rng: random.Random) -> Spec:
    """Change a prompt into the caption of a careless annotator."""
    if spec.relation and rng.random() < FLIPPED_RELATION:
        spec = replace(spec, relation=rng.choice([OPPOSITE[spec.relation], *RELATIONS]))
    if spec.category == "counting" and rng.random() < RANDOM_COUNT:
        subject = replace(spec.subjects[0], count=rng.choice([n for n in NUMBERS if n > 1]))
        spec = replace(spec, subjects=(subject,))
    if spec.category == "color_attr" and rng.random() < SWAPPED_COLORS:
        spec = swap_colors(spec)
    if len(spec.subjects) == 2 and rng.random() < WRONG_SHAPE:
        index = rng.randrange(2)
        subjects = list(spec.subjects)
        subjects[index] = replace(subjects[index], shape=rng.choice(SHAPES))
        spec = replace(spec, subjects=tuple(subjects))
    if spec.category in ("single_object", "colors") and rng.random() < WRONG_SINGLE:
        spec = corrupt(spec, rng)
    return spec


def ratings(count: int, seed: int, device: str, split: str = "train") -> Rated:
    """Draw scenes, some blurred, with the rating of one person, who errs by a standard deviation of 0.5."""
    rng = random.Random(f"ratings/{split}/{seed}")
    scenes = [scene_of(random_spec(rng, split), rng) for _ in range(count)]
    blurs = [random_blur(rng) for _ in scenes]
    rated = [beauty(s, b) + rng.gauss(0, 0.5) for s, b in zip(scenes, blurs, strict=True)]
    images = soften(_draw(scenes, device), torch.tensor(blurs, device=device))
    return Rated(images, torch.tensor(rated, device=device).clamp(1, 10))


def questions(count: int, seed: int, device: str, split: str = "train") -> Questions:
    """Draw images of which half show their prompt; most of the others miss it by one detail."""
    rng = random.Random(f"questions/{split}/{seed}")
    specs, scenes, answers = [], [], []
    for index in range(count):
        spec = random_spec(rng, split)
        scene = scene_of(spec, rng) if index % 2 else _miss(spec, rng)
        specs.append(spec)
        scenes.append(scene)
        answers.append(index % 2)
    blurs = torch.tensor([random_blur(rng) for _ in scenes], device=device)
    images = soften(_draw(scenes, device), blurs)
    return Questions(images, [s.text for s in specs], torch.tensor(answers, device=device))


def contrasts(count: int, seed: int, device: str, misses: int = 3) -> Contrasts:
    """Draw images with the prompt they show and `misses` that they do not show, mostly near misses."""
    rng = random.Random(f"contrasts/{seed}")
    specs = [random_spec(rng, odds=QUESTIONED) for _ in range(count)]
    scenes = [scene_of(spec, rng) for spec in specs]
    blurs = [random_blur(rng) for _ in scenes]
    missed = [[_missed(*pair, rng) for _ in range(misses)] for pair in zip(specs, scenes, strict=True)]
    noticed = [notices(scene, rng, blur) for scene, blur in zip(scenes, blurs, strict=True)]
    images = soften(_draw(scenes, device), torch.tensor(blurs, device=device))
    return Contrasts(images, scenes, specs, missed, noticed)


def preferences(count: int, seed: int, device: str, split: str = "train") -> Preferences:
    """Draw pairs of images of one prompt that are faithful, near misses or unrelated."""
    rng = random.Random(f"preferences/{split}/{seed}")
    specs, scenes, blurs, labels = [], [], [], []
    for _ in range(count):
        spec = random_spec(rng, split)
        pair = [attempt(spec, rng) for _ in range(2)]
        blur = [random_blur(rng) for _ in range(2)]
        specs.append(spec)
        scenes += pair
        blurs += blur
        labels.append(prefer(pair, spec, rng, blur))
    images = soften(_draw(scenes, device), torch.tensor(blurs, device=device))
    return Preferences(
        images.unflatten(0, (count, 2)), [s.text for s in specs], torch.tensor(labels, device=device)
    )


def soften(images: Tensor, blur: Tensor) -> Tensor:
    """Blur uint8 images `[n, 3, H, W]` with a standard deviation in pixels per image."""
    parts = zip(images.split(4096), blur.split(4096), strict=True)
    return torch.cat([_soften(*part) for part in parts])


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: Tensor, seed: int) -> Tensor:
    """Replace a share `RECONSTRUCTED` of the uint8 images by their reconstructions."""
    generator = torch.Generator(images.device).manual_seed(seed)
    chosen = torch.rand(len(images), generator=generator, device=images.device) < RECONSTRUCTED
    for part in chosen.nonzero()[:, 0].split(1024):
        decoded = vae.decode(vae.encode(to_signal(images[part])).latent_dist.mean).sample
        images[part] = ((decoded + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return images


def to_signal(images: Tensor) -> Tensor:
    """Convert uint8 pixels to the autoencoder's input: [-1, 1], channels last."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def normalize(images: Tensor) -> Tensor:
    """Convert uint8 pixels to the input of the rewards' vision towers."""
    mean, deviation = (torch.tensor(v, device=images.device)[:, None, None] for v in (MEAN, DEVIATION))
    return (images.float() / 255 - mean) / deviation


def _soften(images: Tensor, blur: Tensor) -> Tensor:
    offsets = torch.arange(-4, 5, device=images.device)
    kernel = torch.exp(-(offsets**2) / (2 * blur[:, None].clamp(min=1e-3) ** 2))
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    pixels = images.float()
    for axis in (2, 3):
        padding = (4, 4, 0, 0) if axis == 3 else (0, 0, 4, 4)
        windows = torch.nn.functional.pad(pixels, padding, mode="replicate").unfold(axis, 9, 1)
        pixels = torch.einsum("nchwk,nk->nchw", windows, kernel)
    return pixels.round().to(torch.uint8)


def _draw(scenes: list[Scene], device: str) -> Tensor:
    return torch.cat([draw(scenes[i : i + 4096], device) for i in range(0, len(scenes), 4096)])


def random_blur(rng: random.Random) -> float:
    """Draw a standard deviation in pixels; 0 half of the time."""
    return rng.uniform(0.3, 1.3) if rng.random() < 0.5 else 0.0


def _miss(spec: Spec, rng: random.Random) -> Scene:
    """A scene that does not satisfy `spec`, usually a near miss."""
    while True:
        other = corrupt(spec, rng) if rng.random() < 0.8 else random_spec(rng)
        scene = scene_of(other, rng)
        if not satisfies(scene.items, spec.metadata) or other.background != spec.background:
            return scene


def _missed(spec: Spec, scene: Scene, rng: random.Random) -> Spec:
    """A prompt that `scene`, which shows `spec`, does not show."""
    while True:
        other = corrupt(spec, rng) if rng.random() < 0.75 else random_spec(rng, odds=QUESTIONED)
        if other.background not in (None, spec.background) or not satisfies(scene.items, other.metadata):
            return other


def attempt(spec: Spec, rng: random.Random) -> Scene:
    """Draw a scene that satisfies `spec`, misses it by one detail, or is unrelated."""
    roll = rng.random()
    if roll < 0.4:
        return scene_of(spec, rng)
    if roll < 0.9:
        return scene_of(corrupt(spec, rng), rng)
    return scene_of(random_spec(rng), rng)
