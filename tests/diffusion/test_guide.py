"""The code of the guide to one's own SDXL, run in float32 where the files it names are."""

import re
import shutil
from pathlib import Path

import torch

from capo.diffusion import load_family
from capo.diffusion.original_layout import original_file
from capo.diffusion.policy import Policy
from capo.pretrained.model_loading import quiet
from capo.recipe import ModelSection, TrainSection
from diffusion_cases import family_of

GUIDE = (Path(__file__).parents[2] / "docs/guides/your-own-sdxl.md").read_text(encoding="utf-8")
PUBLISHED = "stabilityai/stable-diffusion-xl-base-1.0"


def test_the_code_loads_the_trained_model(sdxl, noise, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    original_file(family_of(sdxl).networks, Path("my-sdxl.safetensors"))
    config = shutil.copytree(sdxl, "config", ignore=shutil.ignore_patterns("*.safetensors"))
    for folder in (Path("style"), Path("runs/mine/train/best")):
        folder.mkdir(parents=True)
        loras = [{"path": "style.safetensors", "weight": 0.8}] if folder.name == "best" else []
        section = ModelSection(checkpoint="my-sdxl.safetensors", config=config, loras=loras)
        family = load_family(section, torch.device("cpu"))
        policy = Policy(family, TrainSection(beta=1.0, lora_rank=2), seed=0)
        for parameter in policy.parameters().values():
            parameter.data += 0.1
        policy.save(folder, {})
        if folder.name == "style":
            shutil.copy(folder / "pytorch_lora_weights.safetensors", "style.safetensors")
    code = re.search(r"## Use the result.*?```python\n(.*?)```", GUIDE, re.DOTALL)[1]
    scope = {}
    with quiet():
        exec(code.replace(PUBLISHED, config).replace("bfloat16", "float32"), scope)
    conditioning, t = family.encode(["a cat", "a dog"]), torch.tensor([5, 9])
    tuned = family.predict(noise, t, conditioning)
    family.denoiser = scope["pipeline"].unet
    torch.testing.assert_close(family.predict(noise, t, conditioning), tuned, rtol=0, atol=1e-5)
