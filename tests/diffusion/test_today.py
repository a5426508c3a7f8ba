"""Families of today: the exact start, gradients, and what their pipelines cannot do."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from capo.diffusion.model_checks import model_facts
from capo.diffusion.policy import Policy
from capo.diffusion.process import sampler_name
from capo.method.objective import denoising_error
from capo.recipe import ModelSection, TrainSection
from diffusion_cases import SHORT, family_of, settings_of

PROMPTS = ["a red circle", "two blue dogs"]


@pytest.fixture
def family(name, checkpoint):
    return family_of(checkpoint(name), **SHORT[name])


@pytest.mark.parametrize("name", SHORT)
def test_a_policy_starts_at_its_reference_and_learns(name, family, noise):
    full = TrainSection(beta=1.0, adaptation="full" if name == "pixart" else "lora", lora_rank=2)
    policy, conditioning = Policy(family, full, seed=0), family.encode(PROMPTS)
    t = family.process.draw_times(2, torch.Generator().manual_seed(0), full)
    latents = torch.linspace(-1, 1, noise.numel()).view(noise.shape)
    x_t, target = family.process.noise_to(latents, noise, t), family.process.target(latents, noise, t)
    with policy.reference_pass():
        reference = family.predict(x_t, t, conditioning)
    tuned = family.predict(x_t, t, conditioning)
    assert torch.equal(tuned, reference)
    denoising_error(tuned, target).sum().backward()
    with torch.no_grad():
        for parameter in policy.parameters().values():
            parameter -= 1e-3 * parameter.grad
    better = denoising_error(family.predict(x_t, t, conditioning), target).sum()
    assert better < denoising_error(reference, target).sum()


@pytest.mark.parametrize("name", ["z-image", "qwen-image"])
def test_a_prompt_does_not_depend_on_its_neighbors(name, family):
    alone, together = family.encode(PROMPTS[:1]), family.encode([*PROMPTS, "a cat " * 4])
    for key, value in alone.items():
        torch.testing.assert_close(together[key][:1], value, rtol=0, atol=1e-5)


def test_pixart_has_no_lora(checkpoint):
    with pytest.raises(ValueError, match=r"train.adaptation: .* set it to full"):
        Policy(family_of(checkpoint("pixart")), TrainSection(beta=1.0, adaptation="lora"), seed=0)
    with pytest.raises(ValueError, match=r"model.loras: diffusers has no LoRA for a PixArtSigmaPipeline"):
        family_of(checkpoint("pixart"), loras=[{"path": "style.safetensors"}])
    with pytest.raises(ValueError, match=r"style.safetensors: diffusers has no LoRA"):
        family_of(checkpoint("pixart")).load_lora(Path("style.safetensors"))


def test_a_processor_whose_package_is_missing_is_named(checkpoint, tmp_path, monkeypatch):
    """As the processor of the published FLUX.2-dev needs torchvision."""
    folder = shutil.copytree(checkpoint("flux2-dev"), tmp_path / "model", symlinks=True)
    index = json.loads((folder / "model_index.json").read_text())
    index["tokenizer"] = ["transformers", "PixtralProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    missing = type("Placeholder", (), {"_backends": ["torchvision"]})
    monkeypatch.setattr("transformers.PixtralProcessor", missing, raising=False)
    model = ModelSection(checkpoint=str(folder), **SHORT["flux2-dev"])
    facts = model_facts(model, settings_of("flux2-dev"), TrainSection(beta=1.0, lora_rank=2))
    (finding,) = facts.findings
    assert (finding.field, finding.severity) == ("model.checkpoint", "error")
    assert "pip install torchvision" in finding.message


@pytest.mark.parametrize("name", ["qwen-image", "z-image", "flux2-dev"])
def test_other_samplers_are_rejected_where_the_pipeline_chooses_noise_levels(name, family):
    with pytest.raises(ValueError, match=r"generate.scheduler: .* choose FlowMatchEulerDiscreteScheduler"):
        family.check_sampler(settings_of(name, scheduler="DPMSolverMultistepScheduler"))
    own = settings_of(name, scheduler=None)
    assert sampler_name(family.process, own) == "FlowMatchEulerDiscreteScheduler"


@pytest.mark.parametrize("name", ["flux2-klein"])
def test_guidance_is_rejected_for_a_distilled_klein(name, family):
    with pytest.raises(ValueError, match=r"generate.guidance_scale: .* set it to 0"):
        family.check_sampler(settings_of(name, guidance_scale=4.0))


@pytest.mark.parametrize("name", ["flux2-dev"])
def test_guidance_reaches_the_network_of_flux2(name, family, noise):
    conditioning = family.encode(PROMPTS)
    images = [family.sample(conditioning, {}, noise, settings_of(name, guidance_scale=g)) for g in (1.0, 4.0)]
    assert not torch.allclose(*images, atol=1e-3)


@pytest.mark.parametrize("name", ["qwen-image"])
def test_more_tokens_than_the_pipelines_default_all_count(name, checkpoint, noise):
    family = family_of(checkpoint(name), max_sequence_length=600)
    conditioning = family.encode(["r" * 450, "r" * 440 + "a cat" * 2])
    one = noise[:1].expand(2, -1, -1, -1)
    first, second = family.sample(conditioning, {}, one, settings_of(name, guidance_scale=0))
    assert not torch.allclose(first, second, atol=1e-4)
    with pytest.raises(ValueError, match=r"model.max_sequence_length: .* more than the 1024"):
        family_of(checkpoint(name), max_sequence_length=1025)
