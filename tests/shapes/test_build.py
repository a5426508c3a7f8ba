import json
import shutil

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from capo.diffusion import load_family
from capo.pretrained.model_loading import quiet
from capo.recipe import GenerateSection, ModelSection
from capo.shapes.build import build, fit
from capo.shapes.build import train_flow as flow
from capo.shapes.build import train_vae as vae
from capo.shapes.checkpoint_paths import CHECKPOINTS

SCALE = 0.002
"""16 steps."""


class Interrupted(Exception):
    pass


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(vae, "BATCH", 8)
    monkeypatch.setattr(fit, "SAVE_EVERY", 5)
    precision = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(precision)


def contents(folder):
    """Weights and configuration, without the origin file, which contains times."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name != "origin.json"
    }


def test_an_interrupted_build_resumes_and_ends_with_the_same_bytes(tmp_path, monkeypatch):
    build(tmp_path / "whole", parts=("vae",), scale=SCALE)
    saves = []

    def save(path, step, *rest, original=fit._save):
        original(path, step, *rest)
        saves.append(step)
        if len(saves) in (1, 3):  # at step 5, then at step 10
            raise Interrupted

    monkeypatch.setattr(fit, "_save", save)
    for _ in range(2):
        with pytest.raises(Interrupted):
            build(tmp_path / "stopped", parts=("vae",), scale=SCALE)
    build(tmp_path / "stopped", parts=("vae",), scale=SCALE)
    assert saves == [5, 10, 15, 16]
    whole = contents(tmp_path / "whole")
    assert whole == contents(tmp_path / "stopped")
    assert set(whole) == {"base/vae/config.json", "base/vae/diffusion_pytorch_model.safetensors"}
    origin = json.loads((tmp_path / "stopped/origin.json").read_text())
    assert origin["vae"]["command"] == "capo shapes build --to DIR --parts vae --device cpu"
    assert origin["vae"]["scale"] == SCALE


def test_capo_and_diffusers_sample_the_flow_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(flow, "BATCH", 8)
    shutil.copytree(CHECKPOINTS / "base/vae", tmp_path / "base/vae")
    build(tmp_path, parts=("flow",), scale=0.0005)  # 3 steps
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    prompts = ["a red circle", "two blue squares"]
    settings = GenerateSection(
        scheduler="FlowMatchEulerDiscreteScheduler", num_inference_steps=3, guidance_scale=2
    )
    section = ModelSection(checkpoint=str(tmp_path / "flow"), max_sequence_length=0)
    family = load_family(section, torch.device("cpu"))
    ours = family.sample(family.encode(prompts), family.unconditional(), noise, settings)
    with quiet():
        pipeline = StableDiffusion3Pipeline.from_pretrained(
            tmp_path / "flow", text_encoder_3=None, tokenizer_3=None, dtype=torch.float32
        )
    pipeline.set_progress_bar_config(disable=True)
    plain = pipeline(
        prompts,
        latents=noise,
        num_inference_steps=3,
        guidance_scale=2,
        max_sequence_length=0,
        output_type="latent",
    ).images
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-4)


def test_an_unknown_part_is_an_error_that_names_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"vea; the parts are vae, base, flow, preference"):
        build(tmp_path / "built", parts=("vea",))
    assert not (tmp_path / "built").exists()
