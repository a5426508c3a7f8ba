"""Checkpoints as people store them: variants, shards, indexes, missing metadata, and a Hub that goes away."""

import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from capo.diffusion import load_family, weight_files
from capo.diffusion.model_checks import model_facts
from capo.pretrained.model_loading import quiet
from capo.recipe import GenerateSection, ModelSection, TrainSection
from loopback_hub import aim, serving

CPU = torch.device("cpu")
SHARDS = {"max_shard_size": "50KB"}


@pytest.fixture(scope="module")
def stored(checkpoint, tmp_path_factory):
    """Folders of one SD 1.5 in several layouts; its fp16 weights are the same numbers, times two."""
    root, plain = tmp_path_factory.mktemp("stored"), checkpoint("sd15")
    with quiet():
        pipeline = StableDiffusionPipeline.from_pretrained(plain, safety_checker=None)
        pipeline.save_pretrained(root / "sharded", **SHARDS)
        for parameter in pipeline.unet.parameters():
            parameter.data = (2 * parameter.data).half()
        pipeline.save_pretrained(root / "only", variant="fp16")
        pipeline.save_pretrained(root / "only-sharded", variant="fp16", **SHARDS)
    for name, parts in {
        "both": [plain, root / "only"],
        "two-indexes": [root / "only-sharded", root / "sharded"],
        "one-part": [plain],
        "bare": [plain],
        "pickled": [plain],
    }.items():
        for part in parts:
            shutil.copytree(part, root / name, dirs_exist_ok=True)
    shutil.copytree(root / "only" / "unet", root / "one-part" / "unet", dirs_exist_ok=True)
    for file in (root / "bare").rglob("*.safetensors"):
        save_file(load_file(file), file)  # without the metadata that names the format
    for file in (root / "pickled").rglob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))
    return root


DEFAULT, FP16 = 1.0, 2.0
TABLE = [
    ("sharded", None, DEFAULT),
    ("sharded", "fp16", r"model\.variant: no part .*'fp16'"),
    ("only", "fp16", FP16),
    ("only", None, r"unet has no default weights.*set model\.variant: fp16"),
    ("only-sharded", "fp16", FP16),
    ("only-sharded", None, r"set model\.variant: fp16"),
    ("both", None, DEFAULT),
    ("both", "fp16", FP16),
    ("two-indexes", None, DEFAULT),
    ("two-indexes", "fp16", FP16),
    ("one-part", "fp16", FP16),
    ("one-part", "bf16", r"model\.variant: no part .*'bf16'"),
    ("bare", None, DEFAULT),
    ("pickled", None, r"unet has only pickled weights.*save_pretrained"),
]


@pytest.mark.parametrize(("name", "variant", "outcome"), TABLE)
def test_what_is_stored_is_loaded_or_named(name, variant, outcome, stored, checkpoint):
    section = ModelSection(checkpoint=str(stored / name), variant=variant)
    facts = model_facts(section, GenerateSection(), TrainSection(beta=1.0))  # reads no weights
    if isinstance(outcome, str):
        with pytest.raises(ValueError, match=outcome):
            load_family(section, CPU)
        assert facts.findings
        return
    assert facts.findings == ()
    family = load_family(section, CPU)
    base = load_file(checkpoint("sd15") / "unet" / "diffusion_pytorch_model.safetensors")
    weights = family.denoiser.state_dict()
    for key, tensor in base.items():
        assert weights[key].dtype == torch.float32
        torch.testing.assert_close(weights[key], outcome * tensor, rtol=2e-3, atol=1e-6)
    assert set(family.networks) == {"unet", "vae", "text_encoder"}


def test_a_repository_of_one_variant_and_then_no_network(stored, tmp_path, monkeypatch):
    """Only what is needed is downloaded, and needed once."""
    weight_files._hub_files.cache_clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("diffusers.utils.hub_utils.HF_HUB_CACHE", str(tmp_path / "cache"), raising=False)
    shutil.copytree(stored / "only", tmp_path / "repository")
    (tmp_path / "repository" / "safety.safetensors").write_bytes(b"not needed")
    section = ModelSection(checkpoint="owner/name", variant="fp16")
    with serving(tmp_path / "repository", kind="models") as hub:
        aim(monkeypatch, hub.url)
        first = load_family(section, CPU)
        first.networks  # noqa: B018
        read = {path for path, _, _ in hub.read}
        assert "unet/diffusion_pytorch_model.fp16.safetensors" in read
        assert "safety.safetensors" not in read
        with pytest.raises(ValueError, match=r"owner/name, unet .*set model\.variant: fp16"):
            load_family(section.model_copy(update={"variant": None}), CPU)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    weight_files._hub_files.cache_clear()
    again = load_family(section, CPU)
    assert again.networks.keys() == first.networks.keys()
    for name, tensor in first.denoiser.state_dict().items():
        assert torch.equal(again.denoiser.state_dict()[name], tensor)
