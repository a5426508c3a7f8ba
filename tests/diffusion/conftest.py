import pytest
import torch

from capo.diffusion import load_family
from capo.recipe import GenerateSection, ModelSection


@pytest.fixture
def family(sdxl):
    """A family of its own for every test: training changes it."""
    return load_family(ModelSection(checkpoint=str(sdxl)), torch.device("cpu"))


@pytest.fixture
def settings():
    return GenerateSection(num_inference_steps=3, guidance_scale=5.0)


@pytest.fixture
def noise():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
