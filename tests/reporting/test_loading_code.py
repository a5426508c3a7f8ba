"""The code in reports and cards runs as printed and makes the very images that capo made."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from capo.diffusion.plain_pipeline import PlainPipeline
from capo.diffusion.policy import Policy, load_policy
from capo.engine.seeds import initial_noise
from capo.pretrained.model_loading import quiet
from capo.recipe import TrainSection
from capo.reporting.loading_code import sampling_code
from diffusion_cases import SHORT, family_of, settings_of

CASES = [
    ("sd15", "lora", {}, {}),
    ("sd21", "full", {}, {}),
    ("sdxl", "lora", {}, {}),
    ("sdxl", "full", {"dtype": "bfloat16"}, {}),
    ("sd3", "lora", {"dtype": "bfloat16"}, {}),
    ("sd3-without-t5", "full", {"max_sequence_length": 4}, {}),
    ("sd35", "lora", {}, {"scheduler": "FlowMatchEulerDiscreteScheduler", "shift": 2.0}),
    ("flux-dev", "lora", {}, {"scheduler": "DPMSolverMultistepScheduler", "shift": 2.0}),
    ("flux-schnell", "full", {}, {}),
    ("flux-schnell", "lora", {}, {"scheduler": "DPMSolverMultistepScheduler"}),
    ("sana", "full", {}, {}),
    ("pixart", "full", SHORT["pixart"], {}),
    ("qwen-image", "lora", SHORT["qwen-image"], {}),
    ("z-image", "full", SHORT["z-image"], {"guidance_scale": 1.0}),
    ("flux2-dev", "lora", SHORT["flux2-dev"], {"shift": 2.0}),
    ("flux2-klein-base", "full", SHORT["flux2-klein-base"] | {"dtype": "bfloat16"}, {}),
]
PROMPT = 'a "red" circle and two cats'
SEED = 2**62 + 5


@pytest.mark.parametrize(("name", "adaptation", "model", "settings"), CASES)
def test_the_printed_code_makes_the_image(
    name: str,
    adaptation: Any,
    model: dict[str, Any],
    settings: dict[str, Any],
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    best, chosen = tmp_path / "runs/mine/train/best", settings_of(name, **settings)
    _save_policy(family_of(checkpoint(name), **model), adaptation, best)
    family = family_of(checkpoint(name), **model)
    load_policy(family, best)
    noise = initial_noise(SEED, family.latent_shape(chosen))[None]
    with torch.no_grad():
        latents = family.sample(family.encode([PROMPT]), family.unconditional(), noise, chosen)
    (made,) = family.decode(latents)
    record = family.plain_diffusers(chosen)
    plain = PlainPipeline(
        folder="runs/mine/train/best",
        adaptation=adaptation,
        dtype=model.get("dtype", "float32"),
        base=str(checkpoint(name)),
        parts=dict.fromkeys(record["left_out"]) | record["parts"],
    )
    code = sampling_code(plain, chosen, record, PROMPT, SEED)
    with quiet():
        exec(compile(code, "report", "exec"), {})
    difference = np.abs(_pixels(Image.open("tuned.png")) - _pixels(made))
    assert difference.max() <= (8 if model.get("dtype") == "bfloat16" else 1)
    assert difference.mean() < 1


def test_a_full_policy_has_one_precision(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    from safetensors import safe_open

    def dtypes(folder: Path) -> set[str]:
        files = [safe_open(file, "pt") for file in sorted(folder.rglob("*.safetensors"))]
        return {file.get_slice(name).get_dtype() for file in files for name in file.keys()}  # noqa: SIM118

    family = family_of(checkpoint("sdxl"), dtype="bfloat16")
    for name, chosen, expected in (("own", None, "BF16"), ("wide", "float32", "F32")):
        section = TrainSection(beta=1.0, adaptation="full", save_dtype=chosen)
        policy = Policy(family, section, seed=0)
        before = {n: tensor.clone() for n, tensor in policy.state().items()}
        policy.save(tmp_path / name, {})
        assert dtypes(tmp_path / name) == {expected}
        assert all(torch.equal(tensor, before[n]) for n, tensor in policy.state().items())
        assert family.denoiser.dtype == torch.float32
        assert family.networks["text_encoder"].dtype == torch.bfloat16


def _save_policy(family: Any, adaptation: Any, folder: Path) -> None:
    """Save a policy that differs from its base."""
    policy = Policy(family, TrainSection(beta=1.0, adaptation=adaptation, lora_rank=2), seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in policy.parameters().values():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    folder.mkdir(parents=True)
    policy.save(folder, {})


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), dtype=int)
