"""Scenes redrawn by the base model, so that a reward knows how the base draws and what it gets wrong.

The base starts from a noisy image of a scene. Half of the images are drawn for the prompt that the scene
shows. The others are drawn for a prompt that the scene misses, from less noise, since the base would else
change the scene until its labels are wrong. Scenes of counts are always drawn for their own prompt: the base
adds and removes shapes even when there is little noise.
"""

import torch
from diffusers import DDIMScheduler, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

from capo.engine.progress import progress
from capo.shapes.build.drawn_data import Contrasts

SHARE = 0.35
"""Share of the images that are redrawn."""
OWN_STRENGTH, MISSED_STRENGTH = 0.5, 0.27
"""Share of the noise schedule that an image goes through, for its own prompt and for a missed one."""
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
    rows = chosen.nonzero()[:, 0].tolist()
    own = [i for i in rows if drawn_for_own_prompt(examples, i)]
    missed = [i for i in rows if not drawn_for_own_prompt(examples, i)]
    with progress("redraw scenes", total=len(rows), unit="images") as bar:
        for group, strength in ((own, OWN_STRENGTH), (missed, MISSED_STRENGTH)):
            for start in range(0, len(group), BATCH):
                part = group[start : start + BATCH]
                asked = [(examples.shown[i] if group is own else examples.missed[i][0]).text for i in part]
                drawn = pipeline(
                    prompt=asked,
                    image=images[part].float() / 255,
                    strength=strength,
                    num_inference_steps=STEPS,
                    guidance_scale=GUIDANCE,
                    generator=generator,
                    output_type="pt",
                ).images
                images[part] = (drawn * 255).round().clamp(0, 255).to(torch.uint8)
                bar.advance(len(part))


def drawn_for_own_prompt(examples: Contrasts, index: int) -> bool:
    """Return whether an example, if redrawn, is drawn for the prompt that it shows."""
    return index % 2 == 1 or examples.shown[index].category == "counting"
