"""Settings and fixtures of all tests.

One thread, no progress output, no waiting for the disk, and tiny checkpoints built once.
"""

import functools
import gc
import os
import shutil
import sys
from pathlib import Path

os.environ["CAPO_QUIET"] = "1"
# No test reuses cached scores, except the tests of the cache, which set this themselves.
os.environ["CAPO_SCORE_CACHE"] = "0"

import pytest
import torch
from hypothesis import settings

import tiny
import tiny_today
import tiny_training
from capo.pretrained.model_loading import quiet

torch.set_num_threads(1)
# No deadline on a busy machine, and the same cases each run.
settings.register_profile("capo", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("capo")
# Flushing protects against power cuts. Tests that start processes still flush.
os.fsync = lambda handle: None


LONGEST = (
    "studies/test_quick.py", "test_together.py", "test_killed.py", "engine/test_ray_executor.py",
    "studies/test_rounds.py", "training/test_train.py", "cost/test_counts.py", "pipeline/test_parts.py",
    "test_four_kinds.py", "rewards/test_program_rewards.py", "studies/test_running.py",
    "sampling/test_growth.py", "diffusion/test_policy.py", "engine/test_heartbeat.py", "cost/test_bench.py",
    "pipeline/test_rounds.py", "training/test_trainer.py", "test_day.py",
)  # fmt: skip
"""Files that take longest. They start first, so that no process is left alone with one at the end."""


def pytest_collection_modifyitems(items):
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_collection_finish():
    """Exclude what the imports made from garbage collection, which stages of a run ask for."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def forget_modules_of_users(tmp_path_factory):
    """Leave no module of a temporary folder to the next file, whose own may have the same name."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    folder = str(tmp_path_factory.getbasetemp())
    written = [
        name
        for name, module in sys.modules.items()
        if (getattr(module, "__file__", None) or "").startswith(folder)
    ]
    for name in written:
        del sys.modules[name]


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
            return tiny.save(
                (tiny.FAMILIES | tiny_today.FAMILIES)[name], tmp_path_factory.mktemp("checkpoints") / name
            )

    return build


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, sdxl):
    """A run directory with everything up to the pairs; copy it before training in it."""
    return tiny_training.prepare(tmp_path_factory.mktemp("prepared"), sdxl)


@pytest.fixture(scope="session")
def browser():
    """The system's Chromium, driven by playwright; skips if either is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if executable is None:
        pytest.skip("no chromium or google-chrome on this machine")
    with playwright.sync_playwright() as started:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = started.chromium.launch(executable_path=executable, args=arguments)
        yield browser
        browser.close()
