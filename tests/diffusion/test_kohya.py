"""A policy's file for ComfyUI and kohya's scripts changes every weight as the policy does."""

import pytest
import torch
from safetensors.torch import load_file

from capo.diffusion.kohya import KOHYA
from capo.diffusion.original_layout import original_unet
from capo.diffusion.policy import Policy
from capo.diffusion.saved import LORA
from capo.pretrained.model_loading import quiet
from capo.recipe import TrainSection
from comfy_reader import with_lora
from diffusion_cases import family_of
from original_layouts import original_flux_blocks, original_sd3

CONV = ("to_q", "to_k", "conv1", "proj_in", "ff.net.0.proj")
CASES = {
    "sd15": {},
    "sdxl": {"lora_targets": CONV, "lora_alpha": 6.0},
    "sdxl dora": {"lora_targets": CONV, "lora_dora": True},
    "sd3": {"lora_targets": ("to_q", "to_v", "add_k_proj", "to_out.0"), "lora_alpha": 3.0},
    "flux-dev": {"lora_targets": ("to_q", "to_k", "proj_mlp", "norm1.linear", "add_q_proj")},
    "flux-dev dora": {"lora_targets": ("to_q", "to_k", "to_out.0"), "lora_dora": True},
}


def original(name, weights, config):
    """The weights under their names in ComfyUI's model."""
    if name == "sd15":
        return weights
    if name == "sd3":
        renamed = original_sd3(weights, config.num_layers)
    else:
        renamed = (
            original_flux_blocks(weights) if name == "flux-dev" else dict(original_unet(weights, config))
        )
    return {key.removeprefix("model.diffusion_model."): tensor for key, tensor in renamed.items()}


@pytest.fixture(params=CASES)
def trained(request, checkpoint, tmp_path):
    """A saved policy: its architecture, its weights before and after, and its folder."""
    name = request.param.partition(" ")[0]
    family = family_of(checkpoint(name))
    before = {key: tensor.clone() for key, tensor in family.denoiser.state_dict().items()}
    policy = Policy(family, TrainSection(beta=1.0, lora_rank=2, **CASES[request.param]), seed=0)
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.parameters().values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    policy.save(tmp_path, {})
    family.denoiser.fuse_lora()
    family.denoiser.unload_lora()
    return name, before, family.denoiser, tmp_path


def test_comfyui_and_kohya_apply_it_as_diffusers_does(trained):
    name, before, denoiser, folder = trained
    config = denoiser.config
    base, expected = (original(name, w, config) for w in (before, dict(denoiser.state_dict())))
    got = with_lora(base, folder / KOHYA)
    changed = [key for key in base if not torch.equal(base[key], expected[key])]
    assert changed
    for key in base:
        torch.testing.assert_close(got[key], expected[key], rtol=0, atol=1e-6)


def test_diffusers_file_needs_no_metadata(trained):
    """A reader that ignores the file's header takes the updates as they are."""
    _, before, denoiser, folder = trained
    tensors = load_file(folder / LORA)
    part = next(iter(tensors)).partition(".")[0]
    for key, tensor in denoiser.state_dict().items():
        name = f"{part}.{key.removesuffix('.weight')}"
        if f"{name}.lora_A.weight" not in tensors:
            assert torch.equal(tensor, before[key])
            continue
        up, down = tensors[f"{name}.lora_B.weight"], tensors[f"{name}.lora_A.weight"]
        merged = before[key] + (up.flatten(1) @ down.flatten(1)).reshape(tensor.shape)
        magnitude = tensors.get(f"{name}.lora_magnitude_vector")
        if magnitude is not None:
            norm = merged.flatten(1).norm(dim=1)
            merged = merged * (magnitude.flatten() / norm).reshape(-1, *[1] * (tensor.dim() - 1))
        torch.testing.assert_close(tensor, merged, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_diffusers_reads_it_too(name, checkpoint, bare, tmp_path):
    family = family_of(checkpoint(name))
    policy = Policy(family, TrainSection(beta=1.0, lora_rank=2, lora_alpha=5.0), seed=0)
    for parameter in policy.parameters().values():
        parameter.data += 0.1
    policy.save(tmp_path, {})
    networks = []
    for file in (LORA, KOHYA):
        pipeline = bare(name)
        with quiet():
            pipeline.load_lora_weights(tmp_path, weight_name=file)
            pipeline.fuse_lora()
            pipeline.unload_lora_weights()
        networks.append(pipeline.unet.state_dict())
    for key, tensor in networks[0].items():
        torch.testing.assert_close(networks[1][key], tensor, rtol=0, atol=1e-6)
