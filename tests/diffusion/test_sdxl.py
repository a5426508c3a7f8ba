"""The family returns what the plain diffusers pipeline returns, bit for bit."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline

from capo.diffusion import load_family
from capo.pretrained.model_loading import quiet
from capo.recipe import GenerateSection, ModelSection

PROMPTS = ["a red circle", "two blue dogs"]


@pytest.fixture(scope="module")
def pipeline(sdxl):
    with quiet():
        pipeline = StableDiffusionXLPipeline.from_pretrained(sdxl, add_watermarker=False)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(family, settings, noise, prompts=PROMPTS):
    return family.sample(family.encode(prompts), family.unconditional(), noise, settings)


@pytest.mark.parametrize("guidance_scale", [0.0, 1.0, 5.0])
def test_latents_and_images_are_those_of_the_pipeline(family, pipeline, noise, guidance_scale):
    settings = GenerateSection(num_inference_steps=3, guidance_scale=guidance_scale)
    latents = sample(family, settings, noise)
    arguments = {
        "latents": noise,
        "height": 32,
        "width": 32,
        "num_inference_steps": 3,
        "guidance_scale": guidance_scale,
    }
    assert torch.equal(latents, pipeline(PROMPTS, **arguments, output_type="latent").images)
    images = family.decode(latents)
    assert [i.tobytes() for i in images] == [i.tobytes() for i in pipeline(PROMPTS, **arguments).images]
    assert images[0].size == (32, 32)


def test_conditioning_is_that_of_the_pipeline(family, pipeline):
    embeds, negative, pooled, negative_pooled = pipeline.encode_prompt(PROMPTS)
    assert torch.equal(family.encode(PROMPTS)["prompt_embeds"], embeds)
    assert torch.equal(family.encode(PROMPTS)["pooled_prompt_embeds"], pooled)
    assert torch.equal(family.unconditional()["prompt_embeds"], negative[:1])
    assert torch.equal(family.unconditional()["pooled_prompt_embeds"], negative_pooled[:1])
    assert not negative.any()  # force_zeros_for_empty_prompt


def test_guidance_uses_the_empty_prompt_if_the_checkpoint_says_so(sdxl, tmp_path):
    folder = shutil.copytree(sdxl, tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"force_zeros_for_empty_prompt": False}))
    family = load_family(ModelSection(checkpoint=str(folder)), torch.device("cpu"))
    empty = family.encode([""])
    assert all(torch.equal(family.unconditional()[name], empty[name]) for name in empty)


@pytest.mark.parametrize(("height", "width"), [(None, None), (16, 32)])
def test_a_prediction_is_that_of_the_pipeline_in_its_loop(family, pipeline, height, width):
    settings = GenerateSection(height=height, width=width)
    shape = family.latent_shape(settings)
    x_t, t = torch.randn(2, *shape), torch.tensor([7, 900])
    embeds, _, pooled, _ = pipeline.encode_prompt(PROMPTS)
    size = (height or 32, width or 32)
    time_ids = pipeline._get_add_time_ids(size, (0, 0), size, torch.float32, pooled.shape[-1])
    expected = pipeline.unet(
        x_t,
        t,
        encoder_hidden_states=embeds,
        added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids.repeat(2, 1)},
    ).sample
    assert torch.equal(family.predict(x_t, t, family.encode(PROMPTS)), expected)


def test_images_do_not_depend_on_the_rest_of_the_batch(family, settings, noise):
    together = sample(family, settings, noise)
    alone = torch.cat([sample(family, settings, noise[i : i + 1], PROMPTS[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-4)


def test_the_size_is_the_recipes_or_the_models_own(family, settings, noise):
    assert family.latent_shape(settings) == (4, 8, 8)
    assert family.latent_shape(GenerateSection(height=16, width=40)) == (4, 4, 10)
    with pytest.raises(ValueError, match=r"generate.width: 36 is not a multiple of 8"):
        family.latent_shape(GenerateSection(width=36))


def test_a_large_batch_is_decoded_in_parts(family, noise, monkeypatch):
    whole = [image.tobytes() for image in family.decode(noise)]
    monkeypatch.setattr("capo.diffusion.vae.PIXELS_AT_ONCE", 1)
    parts = np.frombuffer(b"".join(i.tobytes() for i in family.decode(noise)), np.uint8).astype(int)
    assert np.abs(parts - np.frombuffer(b"".join(whole), np.uint8)).max() <= 1


def test_prompts_that_are_too_long_are_reported(family):
    assert family.truncates(["a red circle", "red " * 14, "red " * 15]) == [False, False, True]


def test_an_unknown_scheduler_is_rejected_with_the_nearest_name(family, noise):
    with pytest.raises(ValueError, match=r"'DDIMSheduler' is not a scheduler .* 'DDIMScheduler'"):
        sample(family, GenerateSection(scheduler="DDIMSheduler"), noise)
    with pytest.raises(ValueError, match="supported: DDIMScheduler, DDPM"):
        sample(family, GenerateSection(scheduler="FlowMatch"), noise)


@pytest.mark.parametrize("scheduler", ["DDPMScheduler", "EulerAncestralDiscreteScheduler"])
def test_a_scheduler_that_draws_noise_is_rejected(family, noise, scheduler):
    with pytest.raises(ValueError, match=f"generate.scheduler: {scheduler} draws noise"):
        sample(family, GenerateSection(scheduler=scheduler, num_inference_steps=2), noise)


@pytest.mark.parametrize("scheduler", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_deterministic_schedulers_are_accepted(family, noise, scheduler):
    settings = GenerateSection(scheduler=scheduler, num_inference_steps=3)
    latents = sample(family, settings, noise)
    assert latents.isfinite().all()
    assert torch.equal(latents, sample(family, settings, noise))


def test_latents_are_float32_in_narrow_precision_too(sdxl, settings, noise):
    section = ModelSection(checkpoint=str(sdxl), dtype="bfloat16")
    family = load_family(section, torch.device("cpu"))
    latents = sample(family, settings, noise)
    assert latents.dtype == torch.float32
    assert latents.isfinite().all()
    prediction = family.predict(noise, torch.tensor([1, 2]), family.encode(PROMPTS))
    assert prediction.dtype == torch.bfloat16
    # SDXL's VAE says that it overflows in half precision.
    assert {p.dtype for p in family._pipeline.vae.parameters()} == {torch.float32}


def test_training_loads_neither_text_encoders_nor_vae(family, noise):
    family.predict(noise, torch.tensor([1, 2]), CONDITIONING)
    assert "_pipeline" not in vars(family)


CONDITIONING = {"prompt_embeds": torch.zeros(2, 16, 32), "pooled_prompt_embeds": torch.zeros(2, 16)}
