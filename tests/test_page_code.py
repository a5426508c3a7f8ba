"""The Python code of the pages runs as printed, in one process; tiny checkpoints stand in for downloads."""

import re
import subprocess
import sys
from pathlib import Path

import torch

import tiny
from capo.diffusion.policy import Policy
from capo.engine.model_loading import quiet
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

STAND_IN = """
import diffusers
places = {places!r}
load = diffusers.DiffusionPipeline.from_pretrained.__func__
def from_pretrained(cls, name, variant=None, **options):
    return load(cls, places.get(name, name), **options)
diffusers.DiffusionPipeline.from_pretrained = classmethod(from_pretrained)
diffusers.DiffusionPipeline.to = lambda pipe, *where, **options: pipe
"""


def python_blocks(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_code_of_the_pages_runs(tmp_path):
    # Stored in half precision, as the originals are: parts differ unless the code names a precision.
    with quiet():
        tiny.sdxl(tmp_path / "sdxl", dtype=torch.float16)
        tiny.save(tiny.FAMILIES["sd3"], tmp_path / "sd3", dtype=torch.float16)
    places = {name: str(tmp_path / family) for name, family in DOWNLOADS.items()}
    for run, family in RUNS.items():
        policy = Policy(family_of(tmp_path / family), TrainSection(beta=1.0, lora_rank=2), seed=0)
        folder = tmp_path / "runs" / run / "train/best"
        folder.mkdir(parents=True)
        policy.save(folder, {})
    parts = [STAND_IN.format(places=places)]
    for page in PAGES:
        for block in python_blocks(page):
            parts.append(block)
            if "pipeline" in block and "image = " not in block:
                parts.append("pipeline('a red circle', num_inference_steps=1, height=32, width=32)")
    subprocess.run([sys.executable, "-c", "\n".join(parts)], cwd=tmp_path, check=True, timeout=300)
