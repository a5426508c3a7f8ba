"""Checkpoints and settings that cannot work are named from the configurations, before anything runs."""

import json
import os
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from capo.diffusion import load_family, model_checks
from capo.diffusion.flow import RectifiedFlow
from capo.diffusion.model_checks import model_facts
from capo.diffusion.original_layout import original_file
from capo.diffusion.policy import Policy
from capo.diffusion.process import DDPM
from capo.recipe import GenerateSection, ModelSection, TrainSection
from diffusion_cases import SHORT, family_of

CONFIG = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
ZERO_SNR = {**CONFIG, "rescale_betas_zero_snr": True}


@pytest.fixture
def edited(checkpoint, tmp_path):
    """From a name and changes of one configuration file to a copy of that checkpoint."""

    def build(name, file, **changes):
        folder = shutil.copytree(checkpoint(name), tmp_path / "model")
        values = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(values | changes))
        return folder

    return build


def findings(folder, **generate):
    section = ModelSection(checkpoint=str(folder))
    return model_facts(section, GenerateSection(**generate), TrainSection(beta=1.0)).findings


UNET, INDEX, SCHEDULER = "unet/config.json", "model_index.json", "scheduler/scheduler_config.json"
CHECKPOINTS = {
    "inpainting": ("sd15", UNET, {"in_channels": 9}, "9 channels, not 4: it is for inpainting"),
    "fill": ("flux-dev", "transformer/config.json", {"in_channels": 96}, "96 channels, not 16"),
    "consistency": ("sd15", UNET, {"time_cond_proj_dim": 8}, "latent consistency"),
    "refiner": ("sdxl", INDEX, {"text_encoder": [None, None], "tokenizer": [None, None]}, "refiner"),
    "inpaint class": ("sd15", INDEX, {"_class_name": "StableDiffusionInpaintPipeline"}, "fills in parts"),
    "refiner class": ("sdxl", INDEX, {"_class_name": "StableDiffusionXLImg2ImgPipeline"}, "refiner"),
    "zero snr": ("sd15", SCHEDULER, {"rescale_betas_zero_snr": True}, "zero terminal SNR.*epsilon"),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_checkpoint_for_something_else_is_named(kind, edited):
    name, file, changes, message = CHECKPOINTS[kind]
    (finding,) = findings(edited(name, file, **changes))
    assert (finding.field, finding.severity) == ("model.checkpoint", "error")
    assert re.search(message, finding.message)


@pytest.mark.parametrize(
    "name", ["EulerAncestralDiscreteScheduler", "DDPMScheduler", "DPMSolverSDEScheduler"]
)
def test_schedulers_that_draw_noise_are_rejected_before_sampling(name, checkpoint):
    (finding,) = findings(checkpoint("sd15"), scheduler=name)
    assert finding.field == "generate.scheduler"
    assert "draws noise" in finding.message


def test_a_stochastic_solver_of_the_checkpoint_is_rejected_too():
    process = DDPM({**CONFIG, "algorithm_type": "sde-dpmsolver++"})
    with pytest.raises(ValueError, match="draws noise"):
        process.sampler(GenerateSection(scheduler="DPMSolverMultistepScheduler"))
    assert process.sampler(GenerateSection()) is not None


def test_many_steps_of_a_distilled_model_are_a_warning(edited):
    own = {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}
    folder = edited("sdxl", SCHEDULER, **own)
    (finding,) = findings(folder)
    assert (finding.field, finding.severity) == ("generate.num_inference_steps", "warning")
    assert findings(folder, num_inference_steps=4, scheduler="EulerDiscreteScheduler") == ()


def test_velocity_with_zero_terminal_snr_trains():
    process = DDPM({**ZERO_SNR, "prediction_type": "v_prediction"})
    latents, noise = torch.randn(2, 2, 4, 8, 8)
    t = torch.tensor([0, 999])
    assert torch.equal(process.noise_to(latents, noise, t)[1], noise[1])
    for weighting in ("sigmoid", "constant"):
        weight = process.loss_weight(torch.arange(1000), weighting, 1.5)
        assert weight.isfinite().all()
        assert (weight[:-1] > 0).all()
        assert weight[-1] == 0
    times = process.draw_times(4, torch.Generator(), TrainSection(beta=1.0, timesteps=(499, 999)))
    assert set(times.tolist()) <= {499, 999}
    with pytest.raises(ValueError, match=r"train\.timesteps: .*no gradient"):
        process.draw_times(4, torch.Generator(), TrainSection(beta=1.0, timesteps=(999,)))


def test_the_default_scheduler_is_that_of_the_process():
    assert type(DDPM(CONFIG).sampler(GenerateSection())).__name__ == "DDIMScheduler"
    flow = RectifiedFlow({"shift": 3.0}).sampler(GenerateSection())
    assert (type(flow).__name__, flow.config.flow_shift) == ("DPMSolverMultistepScheduler", 3.0)
    plain, named = GenerateSection().results(), GenerateSection(scheduler="DDIMScheduler").results()
    assert plain == named  # runs made before there was a default by family stay up to date


def as_one_file(family, folder):
    """Write a model as one file, and a LoRA; return the fields that name them with the configuration."""
    original_file(family.networks, folder / "model.safetensors")
    (folder / "style").mkdir()
    Policy(family, TrainSection(beta=1.0, lora_rank=2), 0).save(folder / "style", {})
    file, style = folder / "model.safetensors", folder / "style"
    return {"checkpoint": str(file), "config": str(folder / "model"), "loras": [{"path": str(style)}]}


@pytest.mark.parametrize("single", [False, True])
def test_facts_without_an_error_are_remembered_until_a_file_changes(sdxl, tmp_path, monkeypatch, single):
    """The second command needs no torch for them."""
    monkeypatch.setenv("CAPO_CACHE", str(tmp_path / "cache"))
    folder = shutil.copytree(sdxl, tmp_path / "model", copy_function=shutil.copy)
    config = folder / "unet" / "config.json"
    fields = as_one_file(family_of(sdxl), tmp_path) if single else {"checkpoint": str(folder)}
    for path in tmp_path.rglob("*"):
        os.utime(path, (1, 1))
    calls, find = [], model_checks._found_facts
    monkeypatch.setattr(model_checks, "_found_facts", lambda *key: calls.append(key) or find(*key))

    def facts():
        model_checks._facts.cache_clear()  # as in a new process
        model_checks._weightless.cache_clear()
        section = ModelSection(**fields)
        return model_facts(section, GenerateSection(), TrainSection(beta=1.0))

    first = facts()
    assert first.image_size is not None
    assert facts() == first
    assert len(calls) == 1
    if single:
        adapter = next((tmp_path / "style").glob("pytorch*"))
        save_file({"unknown": torch.zeros(1)}, adapter)
        os.utime(adapter, (2, 2))
        assert facts().findings
        return
    config.write_text(config.read_text().replace('"in_channels": 4', '"in_channels": 5'))
    os.utime(config, (2, 2))
    assert facts().findings
    assert len(calls) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lora_dora": True, "lora_rank": 3, "save_dtype": "float16"},
        {"adaptation": "full"},
        {"adaptation": "full", "save_dtype": "float32"},
    ],
)
def test_what_a_run_will_write_is_known_without_weights(sdxl, tmp_path, changes):
    section, train = ModelSection(checkpoint=str(sdxl)), TrainSection(beta=1.0, **changes)
    facts = model_facts(section, GenerateSection(), train)
    family = load_family(section, torch.device("cpu"))
    assert facts.conditioning_bytes == sum(tensor.nbytes for tensor in family.encode(["a cat"]).values())
    policy = Policy(family, train, 0)
    assert facts.trained == sum(parameter.numel() for parameter in policy.parameters().values())
    policy.save(tmp_path, {})
    tensors = [load_file(file) for file in tmp_path.rglob("*.safetensors")]
    written = sum(tensor.nbytes for file in tensors for tensor in file.values())
    assert train.policy_bytes(facts.trained, facts.parameters, section.dtype) == pytest.approx(written, 0.01)


@pytest.mark.parametrize("name", ["sd3", "sana", *(name for name in SHORT if name != "flux2-klein-base")])
def test_the_conditioning_of_every_kind_of_text_encoder_is_known_without_weights(checkpoint, name):
    section = ModelSection(checkpoint=str(checkpoint(name)), **SHORT.get(name, {}))
    facts = model_facts(section, GenerateSection(), TrainSection(beta=1.0, adaptation="full"))
    encoded = load_family(section, torch.device("cpu")).encode(["a cat"])
    assert facts.conditioning_bytes == sum(tensor.nbytes for tensor in encoded.values())


def test_a_lora_that_does_not_fit_a_text_encoder_is_named(sdxl, tmp_path):
    name = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora"
    weights = {f"{name}_A.weight": torch.zeros(2, 7), f"{name}_B.weight": torch.zeros(7, 2)}
    save_file(weights, tmp_path / "style.safetensors")
    section = ModelSection(checkpoint=str(sdxl), loras=[{"path": str(tmp_path / "style.safetensors")}])
    (finding,) = model_facts(section, GenerateSection(), TrainSection(beta=1.0)).findings
    assert finding.field == "model.loras.0"
    assert "style.safetensors" in finding.message
