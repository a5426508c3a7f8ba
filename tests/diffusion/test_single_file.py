"""Single-file checkpoints in the original layout load like the diffusers directory they were made from."""

import json
import shutil

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file

from capo.diffusion import load_family, model_identity, model_inputs
from capo.diffusion.model_checks import model_check, model_facts
from capo.diffusion.original_layout import (
    original_clip,
    original_file,
    original_vae,
)
from capo.diffusion.single_file import converted, is_checkpoint_file
from capo.recipe import ModelSection, TrainSection
from diffusion_cases import family_of, settings_of
from original_layouts import original_sd3

CPU = torch.device("cpu")


def original_sd3_file(family, target):
    """The networks of an SD3 in one file, as its authors publish it."""
    parts = {part: network.state_dict() for part, network in family.networks.items()}
    out = dict(original_vae(parts["vae"], len(family.vae.config.block_out_channels)))
    out |= original_sd3(parts["transformer"], family.denoiser.config.num_layers)
    out |= dict(original_clip(parts["text_encoder"], "text_encoders.clip_l."))
    out |= dict(original_clip(parts["text_encoder_2"], "text_encoders.clip_g."))
    moved = "text_encoders.clip_g.transformer.text_projection.weight"
    out[moved] = out.pop("text_encoders.clip_g.transformer.text_model.text_projection.weight")
    out.pop("text_encoders.clip_l.transformer.text_model.text_projection.weight")
    out |= {f"text_encoders.t5xxl.transformer.{n}": t for n, t in parts["text_encoder_3"].items()}
    save_file({key: tensor.contiguous().clone() for key, tensor in out.items()}, target)


@pytest.fixture(scope="module")
def single(checkpoint, tmp_path_factory):
    """From a name to a single file, and a directory without weights that configures it."""
    made = {}

    def build(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("single")
            family = family_of(checkpoint(name))
            if name == "sd3":  # the originals apply CLIP-L's projection nowhere
                encoder = family.networks["text_encoder"]
                encoder.text_projection.weight.data = torch.eye(len(encoder.text_projection.weight))
            ignored = shutil.ignore_patterns("*.safetensors")
            config = shutil.copytree(checkpoint(name), folder / "config", ignore=ignored)
            file = folder / f"{name}.safetensors"
            original_sd3_file(family, file) if name == "sd3" else original_file(family.networks, file)
            made[name] = file, config, family
        return made[name]

    return build


def loaded(file, config, **fields):
    return load_family(ModelSection(checkpoint=str(file), config=str(config), **fields), CPU)


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3"])
def test_images_are_those_of_the_directory(name, single, noise):
    file, config, family = single(name)
    other, settings = loaded(file, config), settings_of(name)
    assert is_checkpoint_file(file)
    prompts = ["a red circle", "two dogs"]
    for each in (family, other):
        each.images = each.sample(each.encode(prompts), each.unconditional(), noise, settings)
    assert torch.equal(family.images, other.images)
    assert [i.tobytes() for i in family.decode(noise)] == [i.tobytes() for i in other.decode(noise)]


def test_a_transformer_of_flux_is_converted_at_its_published_width():
    """diffusers' converter knows only this width, so the tensors are on the meta device."""
    wide, config = 3072, {"num_layers": 1, "num_single_layers": 1, "guidance_embeds": True}
    with torch.device("meta"):
        model = FluxTransformer2DModel(**config)
        shapes = {"linear1.weight": (7 * wide, wide), "linear1.bias": (7 * wide,)}
        shapes |= {"linear2.weight": (wide, 5 * wide), "linear2.bias": (wide,)}
        shapes |= {"modulation.lin.weight": (3 * wide, wide), "modulation.lin.bias": (3 * wide,)}
        shapes |= {f"norm.{side}_norm.scale": (128,) for side in ("query", "key")}
        tensors = {f"single_blocks.0.{name}": torch.empty(shape) for name, shape in shapes.items()}
        for side in ("img", "txt"):
            for name, (out, into) in {
                "mod.lin": (6 * wide, wide),
                "attn.qkv": (3 * wide, wide),
                "attn.proj": (wide, wide),
                "mlp.0": (4 * wide, wide),
                "mlp.2": (wide, 4 * wide),
            }.items():
                place = f"double_blocks.0.{side}_{name}"
                tensors |= {f"{place}.weight": torch.empty(out, into), f"{place}.bias": torch.empty(out)}
            for norm in ("query", "key"):
                tensors[f"double_blocks.0.{side}_attn.norm.{norm}_norm.scale"] = torch.empty(128)
        outside = {"img_in": (wide, 64), "txt_in": (wide, 4096), "final_layer.linear": (64, wide)}
        outside |= {"final_layer.adaLN_modulation.1": (2 * wide, wide)}
        for name, width in (("time_in", 256), ("guidance_in", 256), ("vector_in", 768)):
            outside |= {f"{name}.in_layer": (wide, width), f"{name}.out_layer": (wide, wide)}
        for name, (out, into) in outside.items():
            tensors |= {f"{name}.weight": torch.empty(out, into), f"{name}.bias": torch.empty(out)}
    got = {name: tensor.shape for name, tensor in converted(FluxTransformer2DModel, config, tensors).items()}
    assert got == {name: tensor.shape for name, tensor in model.state_dict().items()}


def test_a_part_that_the_file_lacks_comes_from_the_configuration(single, checkpoint, tmp_path, noise):
    file, config, family = single("sd15")
    tensors = {n: t for n, t in load_file(file).items() if n.startswith("model.diffusion_model.")}
    save_file(tensors, tmp_path / "unet.safetensors")
    both = loaded(tmp_path / "unet.safetensors", checkpoint("sd15"))
    assert torch.equal(both.encode(["a cat"])["prompt_embeds"], family.encode(["a cat"])["prompt_embeds"])
    with pytest.raises(ValueError, match=r"text_encoder|vae"):
        loaded(tmp_path / "unet.safetensors", config).decode(noise)
    lacking = []
    for each in (file, tmp_path / "unet.safetensors"):
        section = ModelSection(checkpoint=str(each), config=str(config))
        facts = model_facts(section, settings_of("sd15"), TrainSection(beta=1.0))
        assert (facts.findings, facts.image_size) == ((), (32, 32))
        lacking.append(set(facts.lacking))
    assert lacking == [set(), {"text_encoder", "vae"}]
    (finding,) = model_check(section, settings_of("sd15"), TrainSection(beta=1.0), "train").findings()
    assert finding.severity == "error"
    assert "no weights for text_encoder, vae; set model.config to a diffusers directory" in finding.message


BROKEN = {
    "missing": (lambda t: t.pop("model.diffusion_model.out.2.bias"), r"unet lacks .*conv_out.bias"),
    "unknown": (lambda t: t.update({"model.diffusion_model.extra": torch.ones(1)}), "unet has unknown"),
    "not finite": (lambda t: t["model.diffusion_model.out.2.bias"].fill_(torch.nan), "unet .*not finite"),
    "shape": (
        lambda t: t.update({"model.diffusion_model.out.2.bias": torch.ones(9)}),
        r"(?s)unet does not fit .*model\.config",
    ),
    "velocity": (lambda t: t.update({"v_pred": torch.ones(1)}), "model.config: .*v_prediction"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_is_not_whole_is_rejected(kind, single, tmp_path):
    file, config, _ = single("sd15")
    change, message = BROKEN[kind]
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, tmp_path / "broken.safetensors")
    with pytest.raises(ValueError, match=message):
        loaded(tmp_path / "broken.safetensors", config)


def test_without_a_configuration_the_architecture_is_recognized(tmp_path, monkeypatch):
    def offline(name, **options):
        raise OSError(f"no network to download {name}")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    lora = {"lora_unet_mid_block.lora_down.weight": torch.ones(2, 2)}
    save_file(lora, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match="no weights of a denoiser"):
        load_family(ModelSection(checkpoint=str(tmp_path / "lora.safetensors")), CPU)
    first = {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(4, 9, 1, 1)}
    save_file(first, tmp_path / "inpainting.safetensors")
    with pytest.raises(ValueError, match="inpainting"):
        load_family(ModelSection(checkpoint=str(tmp_path / "inpainting.safetensors")), CPU)
    save_file({"model.diffusion_model.x": torch.ones(1)}, tmp_path / "v1.safetensors")
    with pytest.raises(ValueError, match=r"model\.config: stable-diffusion-v1-5/.*no network"):
        load_family(ModelSection(checkpoint=str(tmp_path / "v1.safetensors")), CPU)
    with pytest.raises(ValueError, match=r"model\.config: applies only to a single"):
        load_family(ModelSection(checkpoint=str(tmp_path), config="a/b"), CPU)


def test_the_fingerprint_is_of_the_contents(single, tmp_path):
    file, config, _ = single("sd15")
    copy = shutil.copy(file, tmp_path / "renamed.safetensors")
    sections = [ModelSection(checkpoint=str(each), config=str(config)) for each in (file, copy)]
    assert model_identity(sections[0]) == model_identity(sections[1])
    other = shutil.copytree(config, tmp_path / "other")
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps(index | {"requires_safety_checker": None}))
    first, second = (
        model_inputs(ModelSection(checkpoint=str(file), config=str(each))) for each in (config, other)
    )
    assert {n for n in first if first[n] != second[n]} == {"model.config", "model.config.content"}
    assert not any(name.startswith("model.config") for name in model_inputs(ModelSection(checkpoint="a/b")))
