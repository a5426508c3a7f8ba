"""The Python code of the pages runs as printed, in one process; tiny checkpoints stand in for downloads."""

import re
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

import tiny
from capo.diffusion.policy import Policy
from capo.pretrained.model_loading import quiet
from capo.recipe import TrainSection
from diffusion_cases import family_of

ROOT = Path(__file__).parent.parent
PAGES = (
    "docs/start/sdxl.md",
    "docs/guides/families.md",
    "docs/guides/training.md",
    "docs/concepts/embedded-world.md",
    "docs/guides/evaluate.md",
)
RUNS = {"sdxl-first": "sdxl", "sd3": "sd3", "mine": "sdxl"}
"""The runs whose policies the pages load, and their families."""
DOWNLOADS = {
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
    "stabilityai/stable-diffusion-3-medium-diffusers": "sd3",
}


@pytest.fixture
def _stand_ins(tmp_path, monkeypatch):
    """Load tiny checkpoints of `tmp_path` instead of downloads, and leave them on the CPU."""
    load = DiffusionPipeline.from_pretrained.__func__
    places = {name: str(tmp_path / family) for name, family in DOWNLOADS.items()}

    def from_pretrained(cls, name, variant=None, **options):
        return load(cls, places.get(name, name), **options)

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", classmethod(from_pretrained))
    monkeypatch.setattr(DiffusionPipeline, "to", lambda pipe, *where, **options: pipe)


def python_blocks(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.usefixtures("_stand_ins")
def test_the_code_of_the_pages_runs(tmp_path, monkeypatch):
    # Stored in half precision, as the originals are: parts differ unless the code names a precision.
    with quiet():
        tiny.sdxl(tmp_path / "sdxl", dtype=torch.float16)
        tiny.save(tiny.FAMILIES["sd3"], tmp_path / "sd3", dtype=torch.float16)
    for run, family in RUNS.items():
        policy = Policy(family_of(tmp_path / family), TrainSection(beta=1.0, lora_rank=2), seed=0)
        folder = tmp_path / "runs" / run / "train/best"
        folder.mkdir(parents=True)
        policy.save(folder, {})
    monkeypatch.chdir(tmp_path)
    names = {}
    for page in PAGES:
        for block in python_blocks(page):
            exec(block, names)
            if "pipeline" in block and "image = " not in block:
                exec("pipeline('a red circle', num_inference_steps=1, height=32, width=32)", names)
