"""Every family returns what the plain diffusers pipeline returns."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file, save_file

from capo.diffusion.flux import Flux
from capo.diffusion.flux2 import Flux2Klein
from capo.diffusion.pixart import PixArtSigma
from capo.diffusion.policy import Policy, load_policy
from capo.diffusion.process import DDPM
from capo.diffusion.qwen_image import QwenImage
from capo.diffusion.sana import Sana
from capo.diffusion.vae import scaled
from capo.diffusion.z_image import ZImage
from capo.pretrained.model_loading import quiet
from capo.recipe import GenerateSection, TrainSection
from diffusion_cases import PIPELINES, SHORT, family_of, settings_of

PROMPTS = ("a red circle", "two blue dogs")
every = pytest.mark.parametrize("name", PIPELINES)
TODAY = ["pixart", "qwen-image", "z-image", "flux2-klein-base"]
each_architecture = pytest.mark.parametrize(  # SDXL: test_sdxl.py
    "name", ["sd15", "sd3", "flux-dev", "sana", *TODAY]
)


@pytest.fixture
def family(name, checkpoint):
    return family_of(checkpoint(name), **SHORT.get(name, {}))


def sample(family, settings, noise, prompts=PROMPTS):
    return family.sample(family.encode([*prompts]), family.unconditional(), noise, settings)


def pixels(images):
    return np.stack([np.asarray(image, dtype=int) for image in images])


def arguments(settings, family, noise):
    """The same call as arguments of the plain pipeline."""
    names = ("height", "width", "num_inference_steps", "guidance_scale")
    values = {name: getattr(settings, name) for name in names}
    if isinstance(family, Flux):
        noise = FluxPipeline._pack_latents(noise, *noise.shape)
    if isinstance(family, QwenImage):
        noise = FluxPipeline._pack_latents(noise, *noise.shape)
        values["true_cfg_scale"] = values.pop("guidance_scale")
        values["negative_prompt"] = [" "] * len(PROMPTS)
    if isinstance(family, Sana | PixArtSigma):
        values["use_resolution_binning"] = False
    if isinstance(family, PixArtSigma):
        values["clean_caption"] = False
    if family.sequence_length is not None:
        values["max_sequence_length"] = family._tokens()
    return {"latents": noise, **values}


@every
def test_images_are_those_of_the_pipeline(name, family, bare, noise):
    settings = settings_of(name)
    images = pixels(family.decode(sample(family, settings, noise)))
    expected = pixels(bare(name)(prompt=[*PROMPTS], **arguments(settings, family, noise)).images)
    assert images.shape == (2, 32, 32, 3)
    # The pipeline encodes the empty prompt once a row, we once: the last bit may differ.
    assert np.abs(images - expected).max() <= 1
    # Conditioning reaches the output: from the same noise, another prompt is another image.
    first, second = pixels(family.decode(sample(family, settings, noise[:1].expand(2, -1, -1, -1))))
    assert np.abs(first - second).mean() > 0.3


@every
def test_a_prediction_is_that_of_the_network_in_the_pipelines_loop(name, family, bare, noise):
    """The network gets the pipeline's time, guidance, sizes and packing."""
    pipeline, answers = bare(name), []
    network = getattr(pipeline, family.denoiser_name)
    network.register_forward_hook(lambda *call: answers.append(call[-1][0]))
    guidance = 0 if name in ("flux-schnell", "z-image") else 1
    settings = settings_of(name, num_inference_steps=2, guidance_scale=guidance)
    pipeline(prompt=[*PROMPTS], **arguments(settings, family, noise), output_type="latent")
    first = pipeline.scheduler.timesteps[0]
    t = (first if isinstance(family.process, DDPM) else first / 1000).expand(2)
    prediction = family.predict(noise, t, family.encode([*PROMPTS]))
    expected = _velocity(answers[0], family, noise)
    torch.testing.assert_close(prediction, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(family.predict(noise, t * 0, family.encode([*PROMPTS])), expected, atol=1e-2)


def _velocity(answer, family, noise):
    """What the pipeline makes of an answer of the network."""
    if isinstance(family, ZImage):
        return -torch.stack(answer)[:, :, 0]
    if isinstance(family, PixArtSigma):
        return answer.chunk(2, dim=1)[0]
    return family._unpacked(answer, noise)


@each_architecture
def test_images_do_not_depend_on_the_rest_of_the_batch(name, family, noise):
    settings = settings_of(name)
    together = sample(family, settings, noise)
    alone = torch.cat([sample(family, settings, noise[i : i + 1], PROMPTS[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-4)


@every
def test_the_encoder_that_reads_furthest_decides_which_prompts_are_truncated(name, checkpoint):
    family = family_of(checkpoint(name))
    words = {"sd3": 255, "sd35": 255, "flux-dev": 511, "flux-schnell": 255, "pixart": 299}
    # With tokenizers of single characters, after an instruction or the start of a chat.
    characters = {"sana": 298, "qwen-image": 397, "z-image": 506, "flux2-dev": 328}
    characters |= {"flux2-klein-base": 506}
    fits = "r" * characters[name] if name in characters else "red " * words.get(name, 14)
    assert family.truncates(["red", fits, fits + "r"]) == [False, False, True]


@each_architecture
def test_only_sizes_that_the_network_accepts_are_allowed(name, family):
    multiple = {"sana": 32}.get(name, 8)
    height, width = 2 * multiple, 3 * multiple
    assert family.latent_shape(GenerateSection(height=height, width=width)) == (4, height // 4, width // 4)
    with pytest.raises(ValueError, match=rf"generate.width: {multiple + 4} is not a multiple of {multiple}"):
        family.latent_shape(GenerateSection(height=height, width=multiple + 4))


@pytest.mark.parametrize("adaptation", ["lora", "full"])
@each_architecture
def test_plain_diffusers_loads_a_trained_policy(name, adaptation, family, checkpoint, bare, noise, tmp_path):
    if (name, adaptation) == ("pixart", "lora"):
        return  # diffusers has no LoRA for it: test_today.py
    settings = settings_of(name)
    base = sample(family, settings, noise)
    policy = Policy(family, TrainSection(beta=1.0, adaptation=adaptation, lora_rank=2), seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in policy.parameters().values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    policy.save(tmp_path, {})
    pipeline = bare(name, None if adaptation == "lora" else tmp_path)
    if adaptation == "lora":
        with quiet():
            pipeline.load_lora_weights(tmp_path)
    tuned = sample(family, settings, noise)
    latents = pipeline(prompt=[*PROMPTS], **arguments(settings, family, noise), output_type="latent").images
    if isinstance(family, Flux2Klein):  # whose pipeline returns the VAE's own latents
        latents = scaled(latents, family.vae).flatten(2).transpose(1, 2)
    torch.testing.assert_close(family._unpacked(latents, noise), tuned, rtol=0, atol=1e-4)
    assert not torch.allclose(tuned, base, atol=1e-2)
    fresh = family_of(checkpoint(name), **SHORT.get(name, {}))
    load_policy(fresh, tmp_path)
    assert torch.equal(sample(fresh, settings, noise), tuned)


@each_architecture
def test_latents_are_float32_in_narrow_precision_too(name, checkpoint, noise):
    family = family_of(checkpoint(name), dtype="bfloat16", **SHORT.get(name, {}))
    latents = sample(family, settings_of(name), noise)
    assert latents.dtype == torch.float32
    assert latents.isfinite().all()
    t = torch.tensor([1, 2]) if isinstance(family.process, DDPM) else torch.tensor([0.1, 0.2])
    assert family.predict(noise, t, family.encode([*PROMPTS])).dtype == torch.bfloat16


@each_architecture
def test_training_loads_neither_text_encoders_nor_vae(name, family, checkpoint, noise):
    conditioning = family_of(checkpoint(name), **SHORT.get(name, {})).encode([*PROMPTS])
    t = family.process.draw_times(2, torch.Generator().manual_seed(0), TrainSection(beta=1.0))
    assert family.predict(noise, t, conditioning).shape == noise.shape
    assert "_pipeline" not in vars(family)


def test_a_shift_of_sampling_times_is_rejected_by_a_ddpm_schedule(checkpoint, noise):
    with pytest.raises(ValueError, match=r"generate.shift: only flow models"):
        sample(family_of(checkpoint("sd15")), settings_of("sd15", shift=3.0), noise)


@pytest.mark.parametrize("force_upcast", [True, False])
def test_a_vae_that_overflows_in_half_precision(force_upcast, checkpoint, noise, tmp_path):
    """With `force_upcast` it decodes in float32; without, overflow is an error."""
    folder = shutil.copytree(checkpoint("sd15"), tmp_path / "model")
    config = json.loads((folder / "vae" / "config.json").read_text())
    (folder / "vae" / "config.json").write_text(json.dumps(config | {"force_upcast": force_upcast}))
    weights = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    weights["decoder.conv_out.weight"].fill_(6e4)  # just within half precision; its sums are not
    save_file(weights, folder / "vae" / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    family = family_of(folder, dtype="float16")
    if force_upcast:
        assert len(family.decode(noise)) == 2
    else:
        with pytest.raises(ValueError, match=r"pixels that are not finite.* float16"):
            family.decode(noise)
