import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_rewards
from capo import BradleyTerry, PowerRatio
from capo.method import Threshold
from capo.recipe import RewardSection
from capo.rewards import (
    RewardError,
    build_comparison,
    declared_comparison,
    describe_comparison,
    load_reward,
    reward_identity,
)
from capo.store import file_digests


def section(source, **fields):
    return RewardSection(name="mine", source=source, **fields)


@pytest.fixture
def clip(checkpoints, tmp_path):
    """A copy of the CLIP checkpoint that a test may damage."""
    return shutil.copytree(checkpoints["clip"], tmp_path / "clip")


def load(folder):
    return load_reward(section("pickscore", checkpoint=str(folder)), "cpu")


# Identity.


def test_the_name_is_the_default_source():
    assert reward_identity(RewardSection(name="pickscore")) == reward_identity(section("pickscore"))


def test_the_identity_of_hub_weights_is_id_and_revision():
    assert reward_identity(section("pickscore", checkpoint="me/model@v2")) == "ClipPreference me/model@v2"
    assert reward_identity(section("vqascore", checkpoint="me/model")) == "VqaScore me/model@main"
    assert reward_identity(section("pickscore")).split() == [
        "ClipPreference",
        "yuvalkirstain/PickScore_v1@a4e4367c6dfa7288a00c550414478f865b875800",
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K@1c2b8495b28150b8a4922ee1c8edee224c284c0c",
    ]


def test_the_identity_of_local_weights_is_their_content(clip, tmp_path):
    before = reward_identity(section("pickscore", checkpoint=str(clip)))
    moved = shutil.move(clip, tmp_path / "elsewhere")
    assert reward_identity(section("pickscore", checkpoint=str(moved))) == before
    with (moved / "config.json").open("a") as file:
        file.write(" ")
    assert reward_identity(section("pickscore", checkpoint=str(moved))) != before


def test_a_weights_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    """The file can be gigabytes, and every stage needs its identity."""
    monkeypatch.setattr(file_digests, "SMALL", 1)
    path, read = tmp_path / "weights.pt", []
    path.write_bytes(b"some")
    os.utime(path, (0, 0))  # so that it cannot be in the middle of a change
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: read.append(1) or digest(*args))
    weights = section("imagereward", checkpoint=str(path))
    first = reward_identity(weights)
    assert first == reward_identity(weights)
    assert first == f"ImageReward blake2b:{hashlib.blake2b(b'some').hexdigest()}"
    assert len(read) == 1
    path.write_bytes(b"other")
    assert reward_identity(weights) != first


def test_the_identity_of_a_function_is_its_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = tmp_path / "mine_for_identity.py"
    module.write_text("def score(images, prompts): return [0.0] * len(images)\n")
    before = reward_identity(section("mine_for_identity:score"))
    assert before == reward_identity(section("mine_for_identity:score"))
    module.write_text("def score(images, prompts): return [1.0] * len(images)\n")
    assert reward_identity(section("mine_for_identity:score")) != before
    assert "mine_for_identity" not in sys.modules


def test_identity_imports_no_torch(checkpoints):
    code = (
        "import sys; from capo.recipe import RewardSection; from capo.rewards import reward_identity;"
        f"print(reward_identity(RewardSection(name='pickscore', checkpoint={str(checkpoints['clip'])!r})));"
        "print(sorted({'torch', 'transformers', 'diffusers', 'pyarrow'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[1] == "[]"


# Sources that cannot be loaded.


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (
            section("pickscor"),
            "no shipped reward 'pickscor'.*did you mean 'pickscore'.*package.module:function",
        ),
        (section("pickscore", checkpoint="/no/such/place"), "neither a directory nor a Hub id"),
        (section("pickscore", checkpoint="model.pt"), "neither a directory nor a Hub id"),
        (section("function_rewards:redness", checkpoint="a/b"), "checkpoint does not apply to the function"),
        (section("no_such_module:score"), "no module 'no_such_module', neither installed nor in"),
        (section("json.nowhere:score"), "no module 'json.nowhere'"),
    ],
)
def test_unknown_sources_are_rejected(reward, message):
    for ask in (reward_identity, lambda s: load_reward(s, "cpu")):
        with pytest.raises(RewardError, match=message):
            ask(reward)


def test_a_name_that_is_not_a_function_is_rejected():
    for name in ("absent", "not_a_function"):
        with pytest.raises(RewardError, match=f"has no function '{name}'"):
            load_reward(section(f"function_rewards:{name}"), "cpu")


def test_an_error_inside_the_users_module_is_raised_unchanged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_that_fails.py").write_text("import a_package_that_is_not_there\n")
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        load_reward(section("mine_that_fails:score"), "cpu")


# Checkpoints that are rejected.


def test_pickled_weights_are_rejected_and_never_run(clip, tmp_path):
    marker = tmp_path / "marker"

    class Malicious:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    tensors = load_file(clip / "model.safetensors")
    (clip / "model.safetensors").unlink()
    torch.save(tensors, clip / "pytorch_model.bin")
    with pytest.raises(RewardError, match="cannot be loaded as CLIPModel"):
        load(clip)
    (clip / "pytorch_model.bin").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(RewardError, match="cannot be loaded as CLIPModel"):
        load(clip)
    (clip / "pytorch_model.bin").rename(clip / "model.safetensors")
    with pytest.raises(RewardError, match="cannot be loaded as CLIPModel"):
        load(clip)
    assert not marker.exists()


def test_remote_code_is_rejected_and_never_run(clip, tmp_path):
    marker = tmp_path / "marker"
    config = json.loads((clip / "config.json").read_text())
    config["model_type"] = "hostile"
    config["auto_map"] = {"AutoConfig": "hostile.Config", "AutoModelForImageTextToText": "hostile.Model"}
    (clip / "config.json").write_text(json.dumps(config))
    (clip / "hostile.py").write_text(f"open({str(marker)!r}, 'w')\n")
    with pytest.raises(RewardError, match="cannot be loaded as AutoModelForImageTextToText"):
        load_reward(section("vqascore", checkpoint=str(clip)), "cpu")
    assert not marker.exists()


def rewrite(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("text_projection.weight"), "lacks weights of CLIPModel: text_projection.weight"),
        (lambda w: w.update(head=torch.zeros(2)), "has unknown weights of CLIPModel: head"),
        (lambda w: w["logit_scale"].fill_(float("nan")), "not finite: logit_scale"),
        (lambda w: w.update({"text_projection.weight": torch.zeros(3, 3)}), "cannot be loaded as CLIPModel"),
    ],
)
def test_weights_that_do_not_fit_are_rejected(clip, change, message):
    rewrite(clip, change)
    with pytest.raises(RewardError, match=message):
        load(clip)


def test_stored_constants_do_not_count_as_unknown_weights(clip):
    rewrite(clip, lambda w: w.update({"text_model.embeddings.position_ids": torch.arange(16)[None]}))
    load(clip)


def test_truncated_weights_are_rejected(clip):
    weights = clip / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(RewardError, match="cannot be loaded as CLIPModel"):
        load(clip)


def test_a_checkpoint_of_another_architecture_is_rejected(tmp_path):
    with pytest.raises(RewardError, match=r"lacks weights of CLIPModel|cannot be loaded as CLIPModel"):
        load(tiny_rewards.rater(tmp_path))


# Comparisons.


@pytest.mark.parametrize(
    ("reward", "comparison"),
    [
        (section("pickscore", temperature=2.0), BradleyTerry(2.0)),
        (section("vqascore", exponent=0.5), PowerRatio(0.5)),
        (section("vqascore", comparison="bradley-terry", temperature=0.1), BradleyTerry(0.1)),
        (section("pickscore", comparison="threshold"), Threshold()),
        (section("function_rewards:contrast"), BradleyTerry(10.0)),
        (section("function_rewards:contrast", temperature=3.0), BradleyTerry(3.0)),
        (section("function_rewards:undeclared", comparison="power-ratio"), PowerRatio(1.0)),
    ],
)
def test_the_recipe_overrides_the_reward(reward, comparison):
    assert build_comparison(reward) == comparison


def test_a_missing_comparison_is_an_error():
    assert declared_comparison(section("function_rewards:undeclared")) is None
    with pytest.raises(
        RewardError, match=r"'mine' does not declare.*comparison: bradley-terry.*score\.comparison = "
    ):
        build_comparison(section("function_rewards:undeclared"))
    with pytest.raises(RewardError, match="temperature does not apply to its comparison PowerRatio"):
        build_comparison(section("vqascore", temperature=1.0))
    with pytest.raises(RewardError, match="exponent does not apply"):
        build_comparison(section("pickscore", exponent=1.0))


def test_an_invalid_comparison_is_an_error(monkeypatch):
    import function_rewards

    for wrong in ("bradley", 1.0, BradleyTerry):
        monkeypatch.setattr(function_rewards.redness, "comparison", wrong)
        with pytest.raises(RewardError, match=f"comparison is {re.escape(repr(wrong))}; it must be one of"):
            build_comparison(section("function_rewards:redness"))
    monkeypatch.setattr(function_rewards.redness, "comparison", "power-ratio")
    assert build_comparison(section("function_rewards:redness")) == PowerRatio(1.0)


def test_comparisons_are_described_as_json():
    def own(first, second):
        return (first > second).float()

    described = [describe_comparison(c) for c in (BradleyTerry(2.0), PowerRatio(), Threshold(), None)]
    assert described == [
        {"comparison": "bradley-terry", "temperature": 2.0},
        {"comparison": "power-ratio", "exponent": 1.0},
        {"comparison": "threshold"},
        None,
    ]
    assert describe_comparison(own)["comparison"].endswith("own")
