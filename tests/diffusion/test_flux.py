"""Particular to FLUX: guidance as a network input, and a shift that the pipeline sets."""

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, FluxPipeline

from diffusion_cases import family_of, settings_of

PROMPTS = ["a red circle", "two blue dogs"]


@pytest.fixture
def dev(checkpoint):
    return family_of(checkpoint("flux-dev"))


def sample(family, noise, **fields):
    settings = settings_of("flux-dev", **fields)
    return family.sample(family.encode(PROMPTS), family.unconditional(), noise, settings)


def test_guidance_reaches_the_network_of_dev(dev, noise):
    assert not torch.allclose(sample(dev, noise), sample(dev, noise, guidance_scale=1.0), atol=1e-3)


def test_guidance_is_rejected_where_the_network_has_none(checkpoint, noise):
    with pytest.raises(ValueError, match=r"generate.guidance_scale: .* set it to 0"):
        sample(family_of(checkpoint("flux-schnell")), noise)


@pytest.mark.parametrize("name", ["flux-dev", "flux-schnell"])
def test_the_recipes_shift_applies_to_every_sampler(name, checkpoint, noise):
    """Against sampling by hand with the schedulers alone, without the pipeline's own shift."""
    family = family_of(checkpoint(name))
    conditioning = family.encode(PROMPTS)
    for scheduler in (
        FlowMatchEulerDiscreteScheduler(shift=2.0),
        DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=2.0),
    ):
        euler = isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
        scheduler.set_timesteps(**({"sigmas": [1.0, 2 / 3, 1 / 3]} if euler else {"num_inference_steps": 3}))
        x = noise
        for timestep in scheduler.timesteps:
            with torch.no_grad():
                velocity = family.predict(x, (timestep / 1000).expand(2), conditioning)
            x = scheduler.step(velocity, timestep, x, return_dict=False)[0]
        latents = sample(family, noise, shift=2.0, guidance_scale=1.0, scheduler=type(scheduler).__name__)
        torch.testing.assert_close(latents, x, rtol=0, atol=1e-3)


def test_the_default_shift_follows_the_size_as_in_the_pipeline(dev, bare, noise):
    pipeline = bare("flux-dev")
    pipeline.scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, use_dynamic_shifting=True
    )
    packed = FluxPipeline._pack_latents(noise, 2, 4, 8, 8)
    size = {"height": 32, "width": 32, "num_inference_steps": 3, "guidance_scale": 3.5}
    expected = pipeline(PROMPTS, latents=packed, **size, output_type="latent").images
    latents = sample(dev, noise, scheduler="DPMSolverMultistepScheduler")
    torch.testing.assert_close(latents, dev._unpacked(expected, noise), rtol=0, atol=1e-4)


def test_a_scheduler_that_the_pipeline_cannot_shift_is_rejected(dev, noise):
    with pytest.raises(ValueError, match=r"generate.scheduler: FlowMatchHeunDiscreteScheduler does not work"):
        sample(dev, noise, scheduler="FlowMatchHeunDiscreteScheduler")


def test_the_default_size_is_1024_pixels_with_the_published_vae(dev):
    settings = settings_of("flux-dev", height=None, width=None)
    assert np.prod(dev.latent_shape(settings)) == 4 * 128 * 128
