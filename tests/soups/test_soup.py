"""Soups of real policies, loaded by plain diffusers, against soups of the weights in memory."""

import json
import re
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import tiny
import tiny_run
from capo import pipeline
from capo.cli import app
from capo.diffusion import checkpoint_identity, load_family
from capo.diffusion.original_layout import original_unet
from capo.diffusion.policy import Policy
from capo.method.soup import soup as soup_of_weights
from capo.pretrained.model_loading import quiet
from capo.recipe import ModelSection, TrainSection
from capo.soups.full_models import StoredWeights, weight_files
from capo.soups.merge import SoupSettings, soup, soup_front, weightings
from capo.store import StaleArtifact
from comfy_reader import with_lora

METHODS = [
    (SoupSettings("linear"), [1.0, 3.0, 1.0]),
    (SoupSettings(), None),
    (SoupSettings(angle="global"), [2.0, 1.0, 1.0]),
]
LORAS = (
    {"lora_rank": 2, "lora_alpha": 4.0},
    {"lora_rank": 3, "lora_targets": ("to_q", "to_v", "conv1")},
    {"lora_rank": 1, "lora_targets": ("to_out.0", "conv1")},
)
FULL = {"adaptation": "full"}
EXACT = SoupSettings()
OTHER_PARTS = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


def put_policy(folder, checkpoint, train, seed, **model):
    """A policy with randomly changed weights, saved as the train stage does."""
    section = ModelSection(checkpoint=str(checkpoint), **model)
    family = load_family(section, torch.device("cpu"))
    policy = Policy(family, TrainSection(beta=1.0, **train), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters().values():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    folder.mkdir(parents=True)
    base = checkpoint_identity(section.checkpoint, None)
    policy.save(folder, {"step": seed, "base": base, "model": section.results()})
    return folder


@pytest.fixture(scope="module")
def loras(tmp_path_factory, sdxl):
    """Policies of different ranks, alphas and targets; the last one in a run directory."""
    root = tmp_path_factory.mktemp("loras")
    places = [root / "first", root / "second", root / "run" / "train" / "best"]
    for seed, (place, train) in enumerate(zip(places, LORAS, strict=True)):
        put_policy(place, sdxl, train, seed)
    return [*places[:2], root / "run"]


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A checkpoint with float32 weights in shards, and full policies trained from it in bfloat16."""
    root = tmp_path_factory.mktemp("full")
    with quiet():
        checkpoint = tiny.sdxl(root / "checkpoint")
        unet = load_family(ModelSection(checkpoint=str(checkpoint)), torch.device("cpu")).denoiser
        shutil.rmtree(checkpoint / "unet")
        unet.save_pretrained(checkpoint / "unet", max_shard_size="100KB")
    wide = FULL | {"save_dtype": "float32"}
    policies = [put_policy(root / str(k), checkpoint, wide, k, dtype="bfloat16") for k in range(3)]
    return checkpoint, policies


@cache
def tuned_weights(checkpoint, folder=None):
    """The UNet of a plain pipeline after loading and fusing a LoRA."""
    with quiet():
        loaded = StableDiffusionXLPipeline.from_pretrained(checkpoint, **dict.fromkeys(OTHER_PARTS))
        if folder is not None:
            loaded.load_lora_weights(folder)
            loaded.fuse_lora()
            loaded.unload_lora_weights()
    return loaded.unet.state_dict()


def best(policy):
    return policy if (policy / "capo.json").exists() else policy / "train" / "best"


def assert_close(state, expected):
    assert state is not expected
    assert state.keys() == expected.keys()
    for name in state:
        torch.testing.assert_close(state[name], expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("settings", "weights"), METHODS)
def test_a_lora_soup_is_the_soup_of_the_tuned_weights(tmp_path, sdxl, loras, settings, weights):
    made = soup(loras, tmp_path / "soup", settings, weights)
    assert (made["rank"], made["relative_error"]) == (6, 0.0)
    expected = soup_of_weights(
        tuned_weights(sdxl),
        [tuned_weights(sdxl, best(policy)) for policy in loras],
        interpolation=settings.interpolation,
        angle=settings.angle,
        weights=weights,
    )
    assert_close(tuned_weights(sdxl, tmp_path / "soup"), expected)


def test_a_smaller_rank_loses_as_much_as_reported(tmp_path, sdxl, loras):
    """The error is the distance to the exact soup over all weights."""
    base = tuned_weights(sdxl)
    soup(loras, tmp_path / "exact", EXACT)
    exact = tuned_weights(sdxl, tmp_path / "exact")
    for rank in (1, 3):
        made = soup(loras, tmp_path / str(rank), SoupSettings(rank=rank))
        state = tuned_weights(sdxl, tmp_path / str(rank))
        lost = sum((state[n] - exact[n]).square().sum() for n in base)
        whole = sum((exact[n] - base[n]).square().sum() for n in base)
        assert made["relative_error"] == pytest.approx((lost / whole).sqrt().item(), rel=1e-3)
        assert 0.05 < made["relative_error"] < 1
        with safe_open(tmp_path / str(rank) / "pytorch_lora_weights.safetensors", "pt") as file:
            ranks = {file.get_slice(n).get_shape()[0] for n in file.offset_keys() if ".lora_A." in n}
        assert ranks == {rank}


@pytest.mark.parametrize(("settings", "weights"), METHODS)
def test_a_full_soup_starts_from_the_base_as_training_loaded_it(tmp_path, narrow, settings, weights):
    """The policies started from bfloat16 roundings of the checkpoint's float32 weights."""
    checkpoint, policies = narrow
    soup(policies, tmp_path / "soup", settings, weights)
    started = {name: tensor.bfloat16().float() for name, tensor in tuned_weights(checkpoint).items()}
    expected = soup_of_weights(
        started,
        [tuned_weights(policy) for policy in policies],
        interpolation=settings.interpolation,
        angle=settings.angle,
        weights=weights,
    )
    assert_close(tuned_weights(tmp_path / "soup"), expected)


def test_weights_are_read_from_one_file_or_shards_and_any_variant(tmp_path, sdxl):
    unet = load_family(ModelSection(checkpoint=str(sdxl)), torch.device("cpu")).denoiser
    whole = unet.state_dict()
    for variant in (None, "fp16"):
        for size in ("1GB", "100KB"):
            folder = tmp_path / f"{variant}-{size}"
            unet.save_pretrained(folder, variant=variant, max_shard_size=size)
            stored = StoredWeights(weight_files(folder, variant))
            assert stored.keys() == whole.keys()
            assert all(torch.equal(stored[name], whole[name]) for name in whole)
    with pytest.raises(ValueError, match="has neither diffusion_pytorch_model"):
        weight_files(tmp_path / "fp16-1GB")


def test_weightings():
    assert list(weightings(2, 3)) == [[1, 0], [0.5, 0.5], [0, 1]]
    assert list(weightings(3, 2)) == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    grid = list(weightings(3, 5))
    assert len(grid) == len({tuple(weights) for weights in grid}) == 15
    assert all(sum(weights) == 1 for weights in grid)
    with pytest.raises(ValueError, match="at least 2 points, got 1"):
        list(weightings(2, 1))


def test_a_sweep_runs_from_one_policy_to_the_other(tmp_path, sdxl, loras):
    listed = soup_front(loras[:2], tmp_path / "front", EXACT, 3)
    assert json.loads((tmp_path / "front" / "sweep.json").read_text()) == listed
    assert [point["folder"] for point in listed] == ["1-0", "0.5-0.5", "0-1"]
    soup(loras[:2], tmp_path / "half", EXACT)
    expected = (loras[0], tmp_path / "half", loras[1])
    for point, same in zip(listed, expected, strict=True):
        assert_close(tuned_weights(sdxl, tmp_path / "front" / point["folder"]), tuned_weights(sdxl, same))


def test_the_record_describes_the_merge(tmp_path, sdxl, loras):
    soup(loras, tmp_path / "soup", EXACT, [1, 2, 3])
    record = json.loads((tmp_path / "soup" / "capo.json").read_text())
    assert record["base"] == checkpoint_identity(str(sdxl), None)
    assert (record["adaptation"], record["soup"]["weights"]) == ("lora", [1, 2, 3])
    assert record["soup"]["policies"][2] == {
        "folder": str(loras[2] / "train" / "best"),
        "identity": checkpoint_identity(str(loras[2] / "train" / "best"), None),
    }
    again = soup([tmp_path / "soup", loras[0]], tmp_path / "again", EXACT)
    assert again["rank"] == 8  # a soup is a policy like any other


def test_the_model_card_describes_the_merge_and_how_to_load_it(tmp_path, sdxl, loras):
    places = [
        shutil.copytree(best(policy), tmp_path / name) for name, policy in zip("ab", loras[:2], strict=True)
    ]
    run = shutil.copytree(loras[2], tmp_path / "run")
    for place in (*places, best(run)):  # as if the base were on the Hub and lacked a part
        changed = {"left_out": ["text_encoder_3"], "base": "owner/base@main"}
        record = json.loads((place / "capo.json").read_text()) | changed
        record["model"] |= {"checkpoint": "owner/base"}
        (place / "capo.json").write_text(json.dumps(record))
    soup([*places, run], tmp_path / "soup", SoupSettings(rank=3), [1, 2, 1])
    text = (tmp_path / "soup" / "README.md").read_text()
    data = ModelCard(text).data
    assert (data.base_model, data.base_model_relation) == ("owner/base", "adapter")
    assert {"lora", "merge"} <= set(data.tags)
    loading = [
        "from_pretrained(",
        '    "owner/base",',
        "    dtype=torch.float32,",
        "    text_encoder_3=None,",
    ]
    assert "\n".join(loading) in text
    table = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    assert [row[0].removeprefix("| ") for row in table] == ["a", "b", "run"]
    assert [row[1] for row in table] == ["25.0%", "50.0%", "25.0%"]
    assert all("blake2b:" in row[2] for row in table)
    assert "interpolation: slerp\nangle: tensor\nrank: 3\n" in text
    assert str(tmp_path) not in text


def test_the_command(tmp_path, sdxl, loras):
    def capo(*arguments):
        result = CliRunner().invoke(app, ["soup", *map(str, loras[:2]), *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    options = ("--weights", "2,1", "--rank", "3", "--angle", "global")
    printed = json.loads(capo("--to", f"{tmp_path}/one", "--json", *options))
    assert [one["weights"] for one in printed["soups"]] == [[2, 1]]
    soup(loras[:2], tmp_path / "same", SoupSettings(angle="global", rank=3), [2, 1])
    assert_close(tuned_weights(sdxl, tmp_path / "one"), tuned_weights(sdxl, tmp_path / "same"))
    table = capo("--to", f"{tmp_path}/front", "--sweep", "2", "--interpolation", "linear")
    assert "1-0" in table
    assert "0-1" in table
    (policy,) = re.findall(r"--policy (\S+)", " ".join(table.split()))
    assert Path(policy).is_dir()


def test_policies_that_cannot_be_merged_are_rejected(tmp_path, sdxl, loras, narrow):
    def rejected(message, policies, settings=EXACT, weights=None):
        with pytest.raises(ValueError, match=message):
            soup(policies, tmp_path / "soup", settings, weights)
        assert list(tmp_path.glob("*soup*")) == []

    full = put_policy(tmp_path / "full", sdxl, FULL, 0)
    dora = put_policy(tmp_path / "dora", sdxl, {"lora_dora": True}, 0)
    other = put_policy(tmp_path / "other", sdxl, FULL, 1, dtype="bfloat16")
    moved = shutil.copytree(narrow[0], tmp_path / "moved")
    rejected("at least two policies, got 1", loras[:1])
    rejected(f"{tmp_path} is not a policy", [loras[0], tmp_path])
    rejected("tuned from different models .*blake2b", [full, narrow[1][0]])
    rejected("adapted differently", [full, loras[0]])
    rejected("different precisions .*float32.*bfloat16", [full, other])
    rejected("not plain LoRA .use_dora.*lora_dora: false", [loras[0], dora])
    half = shutil.copytree(loras[0], tmp_path / "half") / "pytorch_lora_weights.safetensors"
    with safe_open(half, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.offset_keys()}, file.metadata()
    tensors.pop(next(name for name in tensors if ".lora_B." in name))
    save_file(tensors, half, metadata=metadata)
    rejected("only one of the two LoRA matrices", [loras[1], half.parent])
    rejected("--rank: only LoRA", [full, full], SoupSettings(rank=2))
    rejected("--rank: 6 is more than 5", loras[:2], SoupSettings(rank=6))
    rejected("--angle: linear", loras, SoupSettings("linear", "global"))
    rejected("3 policies need 3 weights, got 2", loras, weights=[1, 2])
    rejected("tuned from another model", narrow[1], SoupSettings(base=str(sdxl)))
    soup(narrow[1], tmp_path / "whole", SoupSettings(base=str(moved)))  # the same weights elsewhere
    with pytest.raises(ValueError, match="whole"):
        soup(loras, tmp_path / "whole", EXACT)


def test_a_soup_is_evaluated_like_a_trained_policy(tmp_path, sdxl, loras):
    """A soup in its own run directory, without any stage before the evaluation."""
    soup(loras, tmp_path / "soup", EXACT)

    def recipe(policy):
        return tiny_run.recipe(
            [{"name": "red", "source": "function_rewards:redness"}],
            "shapes:train",
            model={"checkpoint": str(sdxl)},
            generate={"num_inference_steps": 2, "batch_size": 4},
            evaluate={
                "prompts": {"source": "shapes:test", "count": 2},
                "samples_per_prompt": 1,
                "null_row": False,
                "policy": str(policy),
            },
        )

    results = pipeline.run(recipe(tmp_path / "soup"), tmp_path / "run", stage="evaluate").results
    assert results["policy"]["soup"]["rank"] == 6
    states = {s.name: s.state for s in pipeline.status(recipe(tmp_path / "soup"), tmp_path / "run")}
    assert states["evaluate"] == "done"
    assert "train" not in states
    with pytest.raises(StaleArtifact, match=r"evaluate.policy: .* → .*first"):
        pipeline.run(recipe(loras[0]), tmp_path / "run", stage="evaluate")
    images = [
        (tmp_path / "run" / half / "shard-00000.parquet").read_bytes()
        for half in ("baseline/images/base", "evaluate/images/tuned")
    ]
    assert images[0] != images[1]


def original(sdxl, lora=None):
    """The weights of a UNet under their original names, with a LoRA merged by diffusers."""
    family = load_family(ModelSection(checkpoint=str(sdxl)), torch.device("cpu"))
    if lora is not None:
        family.load_lora(lora)
        family.denoiser.fuse_lora()
        family.denoiser.unload_lora()
    weights, prefix = family.denoiser.state_dict(), "model.diffusion_model."
    named = original_unet(weights, family.denoiser.config)
    return {name.removeprefix(prefix): tensor for name, tensor in named}


def test_a_soup_has_kohyas_file_too(loras, sdxl, tmp_path):
    soup(loras, tmp_path / "soup", EXACT)
    expected = original(sdxl, tmp_path / "soup")
    for name, tensor in with_lora(original(sdxl), tmp_path / "soup/kohya.safetensors").items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)


def test_a_lora_of_kohyas_scripts_is_merged_with_and_without_alpha(loras, sdxl, tmp_path):
    first, second = loras[:2]
    tensors, file = load_file(second / "kohya.safetensors"), tmp_path / "kohya.safetensors"
    one, *others = [name for name in tensors if name.endswith(".alpha")]
    for name in others:
        del tensors[name]
    tensors[one] = torch.tensor(1.0)
    small = others[0].removesuffix("alpha")  # a module of another rank
    tensors[f"{small}lora_down.weight"] = tensors[f"{small}lora_down.weight"][:2].clone()
    tensors[f"{small}lora_up.weight"] = tensors[f"{small}lora_up.weight"][:, :2].clone()
    save_file(tensors, file)
    base = original(sdxl)
    foreign, own = with_lora(base, file), with_lora(base, first / "kohya.safetensors")
    for name, tensor in original(sdxl, file).items():
        torch.testing.assert_close(tensor, foreign[name], rtol=0, atol=1e-6)
    made = soup([first, file], tmp_path / "soup", SoupSettings("linear"))
    assert made["rank"] == 5
    for name, tensor in original(sdxl, tmp_path / "soup").items():
        torch.testing.assert_close(tensor, (foreign[name] + own[name]) / 2, rtol=0, atol=1e-6)
    place = "lora_te1_text_model_encoder_layers_0_self_attn_out_proj"
    tensors |= {f"{place}.lora_down.weight": torch.ones(2, 16), f"{place}.lora_up.weight": torch.ones(16, 2)}
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"kohya\.safetensors also adapts text_encoder"):
        soup([first, file], tmp_path / "text", EXACT)


def test_an_adapter_that_peft_saved_is_merged_like_a_policy(loras, tmp_path):
    first, second = loras[:2]
    with safe_open(second / "pytorch_lora_weights.safetensors", "pt") as file:
        metadata = json.loads(file.metadata()["lora_adapter_metadata"])
        named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    peft = tmp_path / "peft"
    peft.mkdir()
    config = {name.removeprefix("unet."): value for name, value in metadata.items()}
    (peft / "adapter_config.json").write_text(json.dumps(config))
    renamed = {f"base_model.model.{name.removeprefix('unet.')}": tensor for name, tensor in named.items()}
    save_file(renamed, peft / "adapter_model.safetensors")
    soups = []
    for name, other in (("own", second), ("foreign", peft)):
        soup([first, other], tmp_path / name, EXACT)
        soups.append(load_file(tmp_path / name / "pytorch_lora_weights.safetensors"))
    assert soups[0].keys() == soups[1].keys()
    assert all(torch.equal(tensor, soups[1][name]) for name, tensor in soups[0].items())
    with pytest.raises(ValueError, match="is not a policy"):
        soup([peft, peft], tmp_path / "none", EXACT)
