"""Scenes redrawn by the base model, so that a reward knows how the base draws and what it gets wrong.

The base starts from a noisy image of a scene. Half of the images are drawn for the prompt that the scene
shows, and 97% of them still show it. The others are drawn for a prompt that the scene misses. Only 47% of
these still show what the scene did, so one in sixteen training images (an eighth, times 53%) has wrong
labels.
"""

import torch
from diffusers import DDIMScheduler, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

from capo.engine.progress import progress
from capo.shapes.build.drawn_data import Contrasts

SHARE = 0.25
"""Share of the images that are redrawn."""
STRENGTH = 0.5
"""Share of the noise schedule that a redrawn image goes through."""
STEPS, GUIDANCE = 15, 1.5
BATCH = 128


def redraw(base: StableDiffusionXLPipeline, examples: Contrasts, seed: int) -> None:
    """Replace a share of the images by the base's, in place."""
    pipeline = StableDiffusionXLImg2ImgPipeline(**base.components, requires_aesthetics_score=False)
    pipeline.scheduler = DDIMScheduler.from_config(base.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    images = examples.images
    generator = torch.Generator(images.device).manual_seed(seed)
    chosen = torch.rand(len(images), generator=generator, device=images.device) < SHARE
    rows = chosen.nonzero()[:, 0]
    with progress("redraw scenes", total=len(rows), unit="images") as bar:
        for part in rows.split(BATCH):
            asked = [(examples.shown[i] if i % 2 else examples.missed[i][0]).text for i in part.tolist()]
            drawn = pipeline(
                prompt=asked,
                image=images[part].float() / 255,
                strength=STRENGTH,
                num_inference_steps=STEPS,
                guidance_scale=GUIDANCE,
                generator=generator,
                output_type="pt",
            ).images
            images[part] = (drawn * 255).round().clamp(0, 255).to(torch.uint8)
            bar.advance(len(part))
