"""Images on a GPU: those of the CPU, in batches that fit."""

from contextlib import nullcontext

import pytest
import torch

from capo.cost.bench.measure import Case, Row, measure
from capo.diffusion import load_family
from capo.recipe import GenerateSection, ModelSection
from capo.sampling.batching import MOST_POSITIONS, in_batches

SETTINGS = GenerateSection(num_inference_steps=3, guidance_scale=5.0)
SIDE = int((MOST_POSITIONS // 8) ** 0.5)
"""Side of latents of which eight are the largest batch."""


class Eight:
    """What `in_batches` asks of a family, with eight images in the first batch it tries."""

    def __init__(self, device):
        self.device = device

    def latent_shape(self, _settings):
        return 4, SIDE, MOST_POSITIONS // 8 // SIDE


@pytest.fixture
def three_images_fit(cuda):
    """Limits the memory of this process so that three images of 1 GiB fit, but not four."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(cuda).total_memory
    limit = torch.cuda.memory_reserved(cuda) + 3.5 * 2**30
    torch.cuda.set_per_process_memory_fraction(limit / total, cuda)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, cuda)


def test_a_batch_is_halved_until_the_gpu_has_room_for_it(cuda, three_images_fit):
    asked = []

    def sample(batch):
        asked.append(len(batch))
        held = [torch.empty(2**30, dtype=torch.uint8, device=cuda) for _ in batch]
        return torch.zeros(len(held), 1)

    family = Eight(cuda)
    made = list(in_batches(8, family, SETTINGS, sample))
    assert asked == [8, 4, 2, 2, 2, 2]
    assert sum(map(len, made)) == 8
    assert torch.cuda.memory_allocated(cuda) < 2**30
    asked.clear()
    list(in_batches(2, family, SETTINGS, sample))
    assert asked == [2]


def test_a_benchmark_that_does_not_fit_is_a_row_without_measurements(cuda):
    def too_large():
        torch.empty(2**50, dtype=torch.uint8, device=cuda)

    assert measure(Case("x", nullcontext(too_large), 1, cuda), 1) == Row("x")


@pytest.mark.parametrize("name", ["sdxl", "sd3"])
def test_latents_are_those_of_the_cpu(device, checkpoint, name, monkeypatch):
    """In float32 without TF32, up to rounding."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    scheduler = {"sd3": "FlowMatchEulerDiscreteScheduler"}.get(name, "DDIMScheduler")
    settings = SETTINGS.model_copy(update={"scheduler": scheduler})
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    latents = []
    for each in (device, torch.device("cpu")):
        family = load_family(ModelSection(checkpoint=str(checkpoint(name))), each)
        conditioning = family.encode(["a red circle", "two dogs"])
        latents.append(family.sample(conditioning, family.unconditional(), noise, settings).cpu())
    torch.testing.assert_close(*latents, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "layout"), [("sdxl", {"channels_last": True}), ("flux-dev", {"attention": "native"})]
)
def test_the_arrangement_of_the_denoiser_changes_only_rounding(device, checkpoint, name, layout):
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([10, 700]) if name == "sdxl" else torch.tensor([0.01, 0.7])
    found = []
    for fields in ({}, layout):
        section = ModelSection(checkpoint=str(checkpoint(name)), dtype="bfloat16", **fields)
        family = load_family(section, device)
        conditioning = family.encode(["a red circle", "two dogs"])
        with torch.no_grad():
            found.append(family.predict(noise, times, conditioning).float().cpu())
    torch.testing.assert_close(*found, rtol=0.05, atol=0.05)
