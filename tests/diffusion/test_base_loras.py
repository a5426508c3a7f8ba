"""LoRAs of the base: merged as diffusers merges them, in every format, for the policy and its reference."""

import json
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

import loopback_hub
from capo.diffusion import lora_source, model_identity
from capo.diffusion.model_card import Base, loading
from capo.diffusion.policy import Policy
from capo.diffusion.saved import LORA, PEFT_CONFIG, PEFT_WEIGHTS
from capo.pretrained.model_loading import quiet
from capo.recipe import LoraSection, ModelSection, TrainSection, parse_recipe
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
    """In PEFT's names, and in kohya's with an alpha of one module and other ranks elsewhere."""
    place = "text_encoder.encoder.layers.0.self_attn.q_proj"
    pair = {f"{place}.lora_A.weight": torch.ones(2, 16), f"{place}.lora_B.weight": torch.ones(16, 2)}
    save_file(pair, tmp_path / "text.safetensors")
    flat = {}
    for module, rank in (("q", 2), ("out", 3)):
        start = f"lora_te1_text_model_encoder_layers_0_self_attn_{module}_proj"
        flat |= {f"{start}.lora_down.weight": torch.ones(rank, 16)}
        flat |= {f"{start}.lora_up.weight": torch.ones(16, rank)}
    flat["lora_te1_text_model_encoder_layers_0_self_attn_q_proj.alpha"] = torch.tensor(8.0)
    save_file(flat, tmp_path / "kohya.safetensors")
    plain = family_of(sdxl)
    for file, added in (("text", {"q": 2.0}), ("kohya", {"q": 8.0, "out": 3.0})):
        family = with_loras(sdxl, (tmp_path / f"{file}.safetensors", 0.25))
        assert distance(family.denoiser, plain.denoiser) == 0
        for module, value in added.items():
            name = f"encoder.layers.0.self_attn.{module}_proj.weight"
            ours, base = (
                next(t for n, t in each.networks["text_encoder"].state_dict().items() if n.endswith(name))
                for each in (family, plain)
            )
            torch.testing.assert_close(ours, base + 0.25 * value, rtol=0, atol=1e-6)


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


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The Hub with one repository, and an empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "repository").mkdir()
    with loopback_hub.serving(tmp_path / "repository", kind="models") as server:
        loopback_hub.aim(monkeypatch, server.url)
        yield server
    for remembered in (lora_source._listed, lora_source._fetched):
        remembered.cache_clear()


def put_on(hub, *files, **named):
    """Serve these files, and others under other names, from now on."""
    hub.files = {path.name: path for path in files} | {f"{k}.safetensors": v for k, v in named.items()}
    for remembered in (lora_source._listed, lora_source._fetched):
        remembered.cache_clear()


def test_a_lora_on_the_hub_is_the_one_that_is_fetched(sdxl, style, hub, tmp_path, monkeypatch):
    """By its only file, by diffusers' name, by the recipe's `file`, as a folder of PEFT, and then offline."""
    plain, kohya = style / LORA, style / "kohya.safetensors"
    wanted = with_loras(sdxl, (plain, 0.5)).denoiser

    def fetched(**lora):
        section = {"path": "owner/name", "weight": 0.5, **lora}
        return family_of(sdxl, loras=[section]).denoiser

    put_on(hub, style=plain)
    assert distance(fetched(), wanted) == 0
    put_on(hub, plain, other=kohya)
    assert distance(fetched(), wanted) == 0
    assert [name for name, *_ in hub.read if "kohya" in name] == []
    put_on(hub, style / "peft" / PEFT_CONFIG, style / "peft" / PEFT_WEIGHTS)
    assert distance(fetched(path=f"owner/name@{loopback_hub.SHA}"), fetched(path=str(style / "peft"))) == 0
    put_on(hub, one=kohya, two=kohya)
    with pytest.raises(ValueError, match=r"model\.loras\.0: .*several: one\.safetensors, two\.safe.*`file`"):
        fetched()
    with pytest.raises(ValueError, match=r"has no file 'three\.safetensors'"):
        fetched(file="three.safetensors")
    assert distance(fetched(file="two.safetensors"), with_loras(sdxl, (kohya, 0.5)).denoiser) == 0
    hub.files = None
    with pytest.raises(ValueError, match=r"no repository owner/other"):
        fetched(path="owner/other")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert distance(fetched(file="two.safetensors"), with_loras(sdxl, (kohya, 0.5)).denoiser) == 0
    with pytest.raises(ValueError, match=r"has no file|HF_HUB_OFFLINE"):
        fetched(file="three.safetensors")


def test_a_lora_on_the_hub_is_identified_and_printed_by_its_id(sdxl):
    def section(**lora):
        return ModelSection(checkpoint=str(sdxl), loras=[lora])

    plain = section(path="owner/name")
    assert model_identity(plain).endswith("+owner/name@main*1.0")
    assert "file" not in plain.results()["loras"][0]
    named = section(path="owner/name@v2", file="x.safetensors", weight=0.5)
    assert model_identity(named).endswith("+owner/name@v2/x.safetensors*0.5")
    code = loading(Base(str(sdxl), "blake2b:1", loras=named.loras), "lora", {"dtype": "float32"}, [], [])
    assert 'load_lora_weights("owner/name", weight_name="x.safetensors", revision="v2")' in code


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
    shutil.copytree(style / "peft", "other")
    fields = {"loras": [{"path": "style.safetensors", "weight": 0.5}, {"path": "other", "weight": 0.25}]}
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
    base = Base("base", "blake2b:1", loras=tuple(LoraSection(**lora) for lora in fields["loras"]))
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
