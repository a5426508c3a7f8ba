"""Pretrain a vision tower to recognize shapes, as real reward models start from a trained CLIP.

Patch tokens learn the shape and color under the patch. The class token learns which shapes of which
colors the image contains, and how many.
"""

import random
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from capo.engine.seeds import stable_seed
from capo.shapes.build.drawn_data import normalize, random_spec, reconstruct, soften
from capo.shapes.build.fit import Schedule, fit
from capo.shapes.build.part import BuildPart
from capo.shapes.drawing import draw, signed_distance
from capo.shapes.layout import scene_of
from capo.shapes.scenes import COLORS, MAX_ITEMS, SHAPES, SIZE, Scene

SCENES = 60_000
STEPS = 5_000
BATCH = 128
KINDS = len(SHAPES) * len(COLORS)


def teach(tower: Any, vae: AutoencoderKL, part: BuildPart, seed: int) -> None:
    """Train a CLIP vision transformer in place, with two linear heads that are discarded."""
    device = part.device
    width, patch = tower.config.hidden_size, tower.config.patch_size
    rng = random.Random(f"sight/{seed}")
    scenes = [scene_of(random_spec(rng), rng) for _ in range(part.scaled(SCENES))]
    blurs = [rng.uniform(0.3, 1.3) if rng.random() < 0.3 else 0.0 for _ in scenes]
    images = torch.cat([draw(scenes[i : i + 4096], device) for i in range(0, len(scenes), 4096)])
    images = reconstruct(vae, soften(images, torch.tensor(blurs, device=device)), seed)
    under = torch.cat([kinds_under_patches(scenes[i : i + 4096], patch) for i in range(0, len(scenes), 4096)])
    under, held = under.to(device), torch.tensor([_counts(scene) for scene in scenes]).to(device)
    heads = nn.ModuleDict({"patch": nn.Linear(width, KINDS + 1), "whole": nn.Linear(width, KINDS * 3)})
    learner = nn.ModuleDict({"tower": tower, "heads": heads}).to(device)

    def loss(step: int) -> Tensor:
        generator = torch.Generator(device).manual_seed(stable_seed("sight", seed, step))
        index = torch.randint(len(images), (BATCH,), generator=generator, device=device)
        features = tower(pixel_values=normalize(images[index]))
        patches = heads["patch"](features.last_hidden_state[:, 1:])
        whole = heads["whole"](features.pooler_output).unflatten(1, (KINDS, 3))
        return nn.functional.cross_entropy(
            patches.flatten(0, 1), under[index].flatten()
        ) + nn.functional.cross_entropy(whole.flatten(0, 1), held[index].flatten())

    fit(f"{part.name}-sight", learner, loss, Schedule(part.scaled(STEPS), 1.5e-3), part.folder)


def kinds_under_patches(scenes: list[Scene], patch: int) -> Tensor:
    """Kind of shape at the center of every patch `[n, patches]`; `KINDS` for background."""
    center = (torch.arange(SIZE // patch) + 0.5) * patch
    y, x = torch.meshgrid(center, center, indexing="ij")
    labels = torch.full((len(scenes), *x.shape), KINDS)
    for row, scene in zip(labels, scenes, strict=True):
        for item in scene.items:
            distance = signed_distance(
                SHAPES.index(item.shape), x - item.x, y - item.y, torch.tensor(item.radius)
            )
            row[distance < 1] = _kind(item.shape, item.color)
    return labels.flatten(1)


def _counts(scene: Scene) -> list[int]:
    """The number of shapes of every kind in a scene, at most 2."""
    counts = [0] * KINDS
    for item in scene.items[:MAX_ITEMS]:
        counts[_kind(item.shape, item.color)] += 1
    return [min(count, 2) for count in counts]


def _kind(shape: str, color: str) -> int:
    return SHAPES.index(shape) * len(COLORS) + COLORS.index(color)
