import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from capo.pretrained.model_loading import quiet
from capo.recipe import GenerateSection
from diffusion_cases import ABSENT, PIPELINES, family_of, settings_of


@pytest.fixture(scope="session")
def bare(checkpoint):
    """From a family's name to diffusers' own pipeline, with the paper's kind of sampler."""

    def load(name, folder=None):
        with quiet():
            pipeline = PIPELINES[name].from_pretrained(folder or checkpoint(name), **ABSENT.get(name, {}))
        if settings_of(name).scheduler == "DDIMScheduler":
            pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
        elif settings_of(name).scheduler == "DPMSolverMultistepScheduler":
            pipeline.scheduler = DPMSolverMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return load


@pytest.fixture
def family(sdxl):
    """An SDXL family of its own for every test: training changes it."""
    return family_of(sdxl)


@pytest.fixture
def settings():
    return GenerateSection(num_inference_steps=3, guidance_scale=5.0)


@pytest.fixture
def noise():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
