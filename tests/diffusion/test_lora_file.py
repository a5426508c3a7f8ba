"""An adapter is whole or rejected: every tensor of a LoRA file is understood, finite, and in use."""

import json
import re

import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from capo.diffusion import check_lora
from capo.diffusion.policy import Policy
from capo.diffusion.saved import LORA
from capo.recipe import ModelSection, TrainSection
from diffusion_cases import PIPELINES, family_of

KEY = "lora_adapter_metadata"
FIRST = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight"


@pytest.fixture(scope="module")
def policy_folder(sdxl, tmp_path_factory):
    return put_policy(sdxl, tmp_path_factory.mktemp("policy"))


def put_policy(checkpoint, folder, **train):
    """A LoRA policy that changes the answers, as training saves it."""
    policy = Policy(family := family_of(checkpoint), TrainSection(beta=1.0, lora_rank=2, **train), seed=0)
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.parameters().values():
        parameter.data += torch.randn(parameter.shape, generator=generator)
    policy.save(folder, {})
    del family
    return folder


def edited(folder, target, change=lambda tensors: None, **config):
    """A copy of the file with other tensors and metadata; returns its path."""
    tensors = load_file(folder / LORA)
    with safe_open(folder / LORA, "pt") as file:
        metadata = json.loads(file.metadata()[KEY])
    change(tensors)
    metadata |= {f"unet.{name}": value for name, value in config.items()}
    save_file(tensors, target, metadata={KEY: json.dumps(metadata), "format": "pt"})
    return target


def renamed(old, new):
    def change(tensors):
        moved = {name.replace(old, new): tensors.pop(name) for name in list(tensors)}
        tensors.update(moved)

    return change


DAMAGE = {
    "half missing": (lambda t: t.pop(FIRST), r"only one of the two .*attn1\.to_q"),
    "unknown module": (
        lambda t: t.update(
            {n.replace("to_q", "to_zz"): v.clone() for n, v in t.items() if "attn1.to_q" in n}
        ),
        r"does not have: .*to_zz",
    ),
    "other network": (renamed("unet.", "transformer."), r"does not have: transformer"),
    "peft's own": (renamed("unet.", "base_model.model."), r"does not have: base_model\."),
    "dora_scale": (
        lambda t: t.update({FIRST.replace("lora_A.weight", "dora_scale"): torch.ones(8)}),
        "not supported: .*dora_scale",
    ),
    "kronecker": (lambda t: t.update({"unet.conv_in.lokr_w1": torch.ones(2, 2)}), "not supported: .*lokr_w1"),
    "not finite": (lambda t: t[FIRST].fill_(torch.nan), r"not finite: .*to_q"),
    "wrong shape": (lambda t: t.update({FIRST: torch.ones(2, 3)}), "cannot be loaded"),
    "empty": (lambda t: t.clear(), "no LoRA weights"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_an_incomplete_or_foreign_adapter_is_rejected(sdxl, policy_folder, tmp_path, kind):
    change, message = DAMAGE[kind]
    path = edited(policy_folder, tmp_path / "bad.safetensors", change)
    for load in (
        family_of(sdxl).load_lora,
        lambda file: check_lora(ModelSection(checkpoint=str(sdxl)), file),
    ):
        with pytest.raises(ValueError, match=message) as raised:
            load(path)
        assert "bad.safetensors" in str(raised.value)


@pytest.mark.parametrize(
    "config",
    [
        {"megatron_config": {"x": 1}, "megatron_core": "antigravity"},
        {"init_lora_weights": "pissa"},
        {"use_qalora": True},
        {"modules_to_save": ["conv_in"]},
        {"of_a_later_version": True},
    ],
    ids=lambda config: next(iter(config)),
)
def test_settings_that_change_more_than_the_adapter_are_rejected(sdxl, policy_folder, tmp_path, config):
    path = edited(policy_folder, tmp_path / "bad.safetensors", **config)
    with pytest.raises(ValueError, match=rf"bad.safetensors has metadata .*unet.{min(config)}"):
        family_of(sdxl).load_lora(path)


def test_settings_that_only_describe_the_adapter_are_accepted(sdxl, policy_folder, tmp_path):
    harmless = {"init_lora_weights": "gaussian", "base_model_name_or_path": "x/y", "lora_dropout": 0.1}
    family_of(sdxl).load_lora(edited(policy_folder, tmp_path / "good.safetensors", **harmless))


@pytest.mark.parametrize("metadata", ["[]", "{", '"text"'])
def test_malformed_metadata_is_named(sdxl, policy_folder, tmp_path, metadata):
    save_file(load_file(policy_folder / LORA), tmp_path / "bad.safetensors", metadata={KEY: metadata})
    with pytest.raises(ValueError, match=r"bad.safetensors has metadata"):
        family_of(sdxl).load_lora(tmp_path / "bad.safetensors")


def test_a_pickle_is_not_read(sdxl, policy_folder, tmp_path):
    torch.save(load_file(policy_folder / LORA), tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match=r"bad.safetensors is not a readable safetensors file"):
        family_of(sdxl).load_lora(tmp_path / "bad.safetensors")


def adapted_encoders(checkpoint):
    """LoRA weights of both text encoders of an SDXL, by the name of the part."""
    pipeline = family_of(checkpoint)._pipeline
    weights = {}
    for name in ("text_encoder", "text_encoder_2"):
        encoder = getattr(pipeline, name)
        encoder.add_adapter(LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
        state = get_peft_model_state_dict(encoder, adapter_name="default")
        weights |= {f"{name}.{key}": torch.ones_like(tensor) for key, tensor in state.items()}
    return weights


@pytest.mark.filterwarnings("ignore:Could not find a config file")
def test_text_encoders_are_adapted_too_but_never_alone(sdxl, policy_folder, tmp_path):
    encoders = adapted_encoders(sdxl)
    save_file(load_file(policy_folder / LORA) | encoders, tmp_path / "both.safetensors")
    save_file(encoders, tmp_path / "alone.safetensors")
    family = family_of(sdxl)
    before = family.encode(["a cat"])
    family.load_lora(tmp_path / "both.safetensors")
    assert all((family.encode(["a cat"])[name] != before[name]).any() for name in before)
    with pytest.raises(ValueError, match=r"alone.safetensors .*only text encoders"):
        family_of(sdxl).load_lora(tmp_path / "alone.safetensors")
    encoders["text_encoder.encoder.layers.9.self_attn.q_proj.lora_A.weight"] = torch.ones(2, 16)
    encoders["text_encoder.encoder.layers.9.self_attn.q_proj.lora_B.weight"] = torch.ones(16, 2)
    save_file(load_file(policy_folder / LORA) | encoders, tmp_path / "unknown.safetensors")
    with pytest.raises(ValueError, match=r"does not have: text_encoder\.encoder\.layers\.9"):
        family_of(sdxl).load_lora(tmp_path / "unknown.safetensors")


def kohya(folder, target):
    """The file as kohya's scripts name it, with alpha as a tensor."""
    tensors = {}
    for name, tensor in load_file(folder / LORA).items():
        module, side = re.fullmatch(r"unet\.(.+)\.lora_([AB])\.weight", name).groups()
        plain = f"lora_unet_{module.replace('.', '_')}"
        tensors[f"{plain}.lora_{'down' if side == 'A' else 'up'}.weight"] = tensor
        tensors[f"{plain}.alpha"] = torch.tensor(2.0)
    save_file(tensors, target)
    return target


def test_the_format_of_kohya_gives_the_same_answers(sdxl, policy_folder, tmp_path, noise):
    families = family_of(sdxl), family_of(sdxl), family_of(sdxl)
    families[1].load_lora(policy_folder)
    families[2].load_lora(kohya(policy_folder, tmp_path / "kohya.safetensors"))
    conditioning = families[0].encode(["a cat", "a dog"])
    base, ours, theirs = (family.predict(noise, torch.tensor([5, 9]), conditioning) for family in families)
    assert not torch.equal(base, ours)
    assert torch.equal(ours, theirs)
    broken = load_file(tmp_path / "kohya.safetensors")
    broken.pop(next(name for name in broken if name.endswith("lora_up.weight")))
    save_file(broken, tmp_path / "broken.safetensors")
    with pytest.raises(ValueError, match=r"broken.safetensors has only one of the two"):
        families[0].load_lora(tmp_path / "broken.safetensors")


@pytest.mark.parametrize(
    "name", [name for name in PIPELINES if name != "pixart"]
)  # diffusers has no LoRA for it
def test_a_saved_policy_of_every_family_passes(checkpoint, tmp_path, name):
    put_policy(checkpoint(name), tmp_path, lora_targets=("to_q", "to_k"), lora_dora=name == "sd3")
    family_of(checkpoint(name)).load_lora(tmp_path)
    check_lora(ModelSection(checkpoint=str(checkpoint(name))), tmp_path)
