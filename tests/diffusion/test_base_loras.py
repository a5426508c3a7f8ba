"""LoRAs of the base: merged as diffusers merges them, in every format, for the policy and its reference."""

import json
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from capo.diffusion import model_identity
from capo.diffusion.model_card import Base, loading
from capo.diffusion.policy import Policy
from capo.diffusion.saved import LORA, PEFT_CONFIG, PEFT_WEIGHTS
from capo.engine.model_loading import quiet
from capo.recipe import ModelSection, TrainSection, parse_recipe
from capo.reporting.loading_code import loading_code
from diffusion_cases import ABSENT, PIPELINES, family_of

ALPHA = 4.0


def put_policy(folder, family, seed=0, **train):
    """A LoRA of rank 2 that changes the answers, saved as a policy of `family`."""
    policy = Policy(family, TrainSection(beta=1.0, lora_rank=2, **train), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.parameters().values():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    policy.save(folder, {})
    return folder


@pytest.fixture(scope="module")
def style(sdxl, tmp_path_factory):
    """A folder with one LoRA in three formats: diffusers', kohya's, and PEFT's own."""
    folder = put_policy(tmp_path_factory.mktemp("style"), family_of(sdxl))
    tensors = load_file(folder / LORA)
    flat, own = {}, {}
    for name, tensor in tensors.items():
        module, side = re.fullmatch(r"unet\.(.+)\.lora_([AB])\.weight", name).groups()
        plain = f"lora_unet_{module.replace('.', '_')}"
        flat[f"{plain}.lora_{'down' if side == 'A' else 'up'}.weight"] = tensor
        flat[f"{plain}.alpha"] = torch.tensor(ALPHA)
        own[f"base_model.model.{module}.lora_{side}.weight"] = tensor
    save_file(flat, folder / "kohya.safetensors")
    (folder / "peft").mkdir()
    save_file(own, folder / "peft" / PEFT_WEIGHTS)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": ALPHA, "target_modules": targets, "bias": "none"}
    (folder / "peft" / PEFT_CONFIG).write_text(json.dumps(settings))
    return folder


def merged(folder, loras, name="sdxl"):
    """The denoiser of the plain pipeline with LoRAs merged by diffusers."""
    with quiet():
        pipeline = PIPELINES[name].from_pretrained(folder, **ABSENT.get(name, {}))
        for path, weight in loras:
            pipeline.load_lora_weights(path.parent, weight_name=path.name)
            pipeline.fuse_lora(lora_scale=weight)
            pipeline.unload_lora_weights()
    return pipeline.transformer if hasattr(pipeline, "transformer") else pipeline.unet


def with_loras(folder, *loras, **fields):
    return family_of(
        folder, loras=[{"path": str(path), "weight": weight} for path, weight in loras], **fields
    )


def distance(network, other):
    theirs = other.state_dict()
    return max(float((tensor - theirs[name]).abs().max()) for name, tensor in network.state_dict().items())


def test_every_format_gives_the_weights_that_diffusers_merges(sdxl, style):
    base = family_of(sdxl).denoiser
    plain, kohya = style / LORA, style / "kohya.safetensors"
    for path, weight in ((plain, 0.5), (kohya, 1.5)):
        expected = merged(sdxl, [(path, weight)])
        assert distance(with_loras(sdxl, (path, weight)).denoiser, expected) < 1e-6
        assert distance(expected, base) > 0.01
    # PEFT's own layout has the same matrices and the alpha of kohya's file.
    ours = with_loras(sdxl, (style / "peft", 1.5)).denoiser
    assert distance(ours, merged(sdxl, [(kohya, 1.5)])) < 1e-6
    both = with_loras(sdxl, (plain, 0.5), (kohya, 1.5)).denoiser
    assert distance(both, merged(sdxl, [(plain, 0.5), (kohya, 1.5)])) < 1e-6
    assert both.state_dict().keys() == base.state_dict().keys()


@pytest.mark.parametrize("name", ["sd3", "flux-dev"])
def test_transformers_too(name, checkpoint, tmp_path):
    put_policy(tmp_path, family_of(checkpoint(name)), lora_targets=("to_q", "to_k"))
    expected = merged(checkpoint(name), [(tmp_path / LORA, 0.5)], name)
    assert distance(with_loras(checkpoint(name), (tmp_path / LORA, 0.5)).denoiser, expected) < 1e-6


def test_text_encoders_are_merged_when_they_are_loaded(sdxl, style, tmp_path):
    place = "text_encoder.encoder.layers.0.self_attn.q_proj"
    pair = {f"{place}.lora_A.weight": torch.ones(2, 16), f"{place}.lora_B.weight": torch.ones(16, 2)}
    save_file(pair, tmp_path / "text.safetensors")
    family, plain = with_loras(sdxl, (tmp_path / "text.safetensors", 0.25)), family_of(sdxl)
    assert distance(family.denoiser, plain.denoiser) == 0
    name = "encoder.layers.0.self_attn.q_proj.weight"
    ours, base = (
        next(t for n, t in each.networks["text_encoder"].state_dict().items() if n.endswith(name))
        for each in (family, plain)
    )
    torch.testing.assert_close(ours, base + 0.25 * 2, rtol=0, atol=1e-6)


def test_a_lora_that_is_not_whole_or_does_not_fit_is_rejected(sdxl, checkpoint, style, tmp_path):
    tensors = load_file(style / LORA)
    tensors.pop(next(name for name in tensors if "attn1.to_q.lora_A" in name))
    save_file(tensors, tmp_path / "half.safetensors")
    for folder, path, message in (
        (sdxl, tmp_path / "half.safetensors", "only one of the two"),
        (checkpoint("sd3"), style / LORA, "modules that this model does not have"),
        (sdxl, tmp_path / "none.safetensors", "not a readable"),
    ):
        with pytest.raises(ValueError, match=rf"model\.loras\.0: .*{path.name}.*{message}"):
            with_loras(folder, (path, 1.0))
    with pytest.raises(ValueError, match=r"model\.loras\.0\.path: .*neither a file nor a folder"):
        model_identity(ModelSection(checkpoint=str(sdxl), loras=[{"path": str(tmp_path / "none")}]))


def test_contents_and_weights_are_in_the_identity(sdxl, style, tmp_path):
    def identity(*loras):
        return model_identity(
            ModelSection(checkpoint=str(sdxl), loras=[{"path": str(p), "weight": w} for p, w in loras])
        )

    plain, kohya = style / LORA, style / "kohya.safetensors"
    copy = shutil.copy(plain, tmp_path / "copy.safetensors")
    assert identity((plain, 0.5)) == identity((copy, 0.5))
    others = [(), ((plain, 0.5),), ((plain, 1.0),), ((kohya, 0.5),), ((plain, 0.5), (kohya, 0.5))]
    assert len({identity(*loras) for loras in others}) == len(others)


def test_policy_and_reference_have_it_and_the_printed_code_loads_it(
    sdxl, style, noise, tmp_path, monkeypatch
):
    """The code of the model card and that of the report, run where the files are."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sdxl, "base")
    shutil.copy(style / "kohya.safetensors", "style.safetensors")
    fields = {"loras": [{"path": "style.safetensors", "weight": 0.5}]}
    family = family_of("base", **fields)
    conditioning, t = family.encode(["a cat", "a dog"]), torch.tensor([5, 9])
    base = family.predict(noise, t, conditioning)
    assert not torch.allclose(base, family_of("base").predict(noise, t, conditioning), atol=1e-3)
    policy = Policy(family, TrainSection(beta=1.0, lora_rank=2), seed=0)
    for parameter in policy.parameters().values():
        parameter.data += 0.1
    with policy.reference():
        torch.testing.assert_close(family.predict(noise, t, conditioning), base, rtol=0, atol=0)
    for folder in (tmp_path / "run/train/best", tmp_path / "copy"):
        folder.mkdir(parents=True)
        policy.save(folder, {})
    base = Base("base", "blake2b:1", loras=tuple(fields["loras"]))
    card = loading(base, "lora", {"dtype": "float32"}, [], ["num_inference_steps=1"])
    code = card.partition("```python\n")[2].removesuffix("```")
    recipe = parse_recipe(
        {
            "name": "mine",
            "model": {"checkpoint": "base", **fields},
            "prompts": {"source": "prompts.txt"},
            "generate": {"num_inference_steps": 1},
            "rewards": [{"name": "red"}],
            "train": {"beta": 1},
            "evaluate": {"prompts": {"source": "other.txt"}},
        }
    )
    material = SimpleNamespace(recipe=recipe, summaries={"train": {}}, side_by_side=[], place="run")
    tuned = family.predict(noise, t, conditioning)
    for text, folder in ((code, "copy"), (loading_code(material), ".")):
        scope = {}
        monkeypatch.chdir(tmp_path / folder)
        with quiet():
            exec(text, scope)
        assert isinstance(scope["pipe"], StableDiffusionXLPipeline)
        family.denoiser = scope["pipe"].unet
        torch.testing.assert_close(family.predict(noise, t, conditioning), tuned, rtol=0, atol=1e-5)
