"""The device of these tests: a CUDA GPU, without which they are skipped.

`CAPO_TEST_DEVICE=cpu` runs those that do not need CUDA itself on the CPU, to test the tests.
"""

import os

import pytest
import torch

import tiny_training
from capo.diffusion import load_family
from capo.diffusion.policy import Policy
from capo.engine.device import select_device
from capo.pairing.training_pairs import read_pairs
from capo.recipe import EngineSection
from capo.store import Run
from capo.training.batches import Batches
from capo.training.sample_files import Samples
from capo.training.trainer import Trainer


@pytest.fixture(scope="session")
def device():
    name = os.environ.get("CAPO_TEST_DEVICE", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return select_device(EngineSection(device=name))


@pytest.fixture(scope="session")
def cuda(device):
    if device.type != "cuda":
        pytest.skip("needs a CUDA device")
    return device


@pytest.fixture
def trainer(device, prepared, checkpoint, tmp_path):
    """Builds a trainer on the device, and its batches, from fields of the sections train and model."""

    def build(model=None, **train):
        recipe = tiny_training.recipe(tmp_path, checkpoint("sdxl"), train, model=model or {})
        family = load_family(recipe.model, device)
        policy = Policy(family, recipe.train, recipe.seed)
        run = Run(prepared)
        prompts, _ = read_pairs(run.artifact("pairs"), 0.0)
        samples = Samples(run.artifact("samples"))
        batches = Batches(prompts, samples, family.process, recipe.train, recipe.seed)
        return Trainer(family, policy, recipe.train), batches.batch

    return build
