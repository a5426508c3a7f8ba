"""Measure how often a scene that the base model redrew still shows what it is labeled with, by the judge.

    python benchmarks/redrawn_scenes.py [SCENES]

Prints the shares for scenes redrawn for their own prompt and for one that they miss; writes no files.
"""

import sys

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline

from capo.shapes.build import drawn_data, redraw
from capo.shapes.checkpoint_paths import CHECKPOINTS
from capo.shapes.judge import judge

SEED = 99  # not a seed of training


def main(scenes: int) -> None:
    redraw.SHARE = 1.0
    base = StableDiffusionXLPipeline.from_pretrained(CHECKPOINTS / "base", torch_dtype=torch.float32)
    examples = drawn_data.contrasts(scenes, SEED, "cpu")
    redraw.redraw(base, examples, SEED)
    images = examples.images.permute(0, 2, 3, 1).numpy()
    kept = np.array([judge(i, s.metadata) for i, s in zip(images, examples.shown, strict=True)])
    own = np.array([redraw.drawn_for_own_prompt(examples, index) for index in range(scenes)])
    print(f"own prompt {kept[own].mean():.3f}, missed prompt {kept[~own].mean():.3f}, all {kept.mean():.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 512)
