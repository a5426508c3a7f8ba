"""Settings and fixtures of all tests: one thread, no progress output, and tiny checkpoints built once."""

import functools
import os

os.environ["CAPO_QUIET"] = "1"
# No test reuses cached scores, except the tests of the cache, which set this themselves.
os.environ["CAPO_SCORE_CACHE"] = "0"

import pytest
import torch
from hypothesis import settings

import tiny
import tiny_training
from capo.engine.model_loading import quiet

torch.set_num_threads(1)
# No deadline on a busy machine, and the same cases each run.
settings.register_profile("capo", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("capo")


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory):
    """A tiny SDXL checkpoint directory; do not write into it."""
    with quiet():
        return tiny.sdxl(tmp_path_factory.mktemp("checkpoints") / "sdxl")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, sdxl):
    """From a family's name to its tiny checkpoint directory; do not write into it."""

    @functools.cache
    def build(name):
        if name == "sdxl":
            return sdxl
        with quiet():
            return tiny.save(tiny.FAMILIES[name], tmp_path_factory.mktemp("checkpoints") / name)

    return build


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, sdxl):
    """A run directory with everything up to the pairs; copy it before training in it."""
    return tiny_training.prepare(tmp_path_factory.mktemp("prepared"), sdxl)
