"""Exported policies are whole models that give the policy's answers."""

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from capo.cli import app
from capo.diffusion import load_family, model_identity
from capo.diffusion.kohya import KOHYA
from capo.diffusion.policy import Policy
from capo.recipe import ModelSection, TrainSection

CPU = torch.device("cpu")
T = torch.tensor([5, 9])


def put_policy(folder, model, **train):
    """Save a policy with its record; return its family."""
    family = load_family(model, CPU)
    policy = Policy(family, TrainSection(beta=1.0, lora_rank=2, **train), seed=0)
    for parameter in policy.parameters().values():
        parameter.data += 0.02
    folder.mkdir()
    policy.save(folder, {"model": model.results(), "base": model_identity(model)})
    return family


def export(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def answer(family, noise):
    return family.predict(noise, T, family.encode(["a cat", "a dog"]))


@pytest.mark.parametrize("train", [{"lora_alpha": 3.0}, {"lora_dora": True}, {"adaptation": "full"}], ids=str)
def test_a_whole_model_gives_the_answers_of_the_policy(train, sdxl, noise, tmp_path):
    expected = answer(put_policy(tmp_path / "policy", ModelSection(checkpoint=str(sdxl)), **train), noise)
    folder, file = tmp_path / "whole", tmp_path / "whole.safetensors"
    assert export(tmp_path / "policy", "--to", folder).exit_code == 0
    assert export(tmp_path / "policy", "--to", file, "--layout", "single-file").exit_code == 0
    for section in (
        ModelSection(checkpoint=str(folder)),
        ModelSection(checkpoint=str(file), config=str(sdxl)),
    ):
        torch.testing.assert_close(answer(load_family(section, CPU), noise), expected, rtol=0, atol=1e-4)
    kohya = export(tmp_path / "policy", "--to", tmp_path / "lora.safetensors", "--layout", "kohya")
    assert (kohya.exit_code == 0) == ("adaptation" not in train)
    if kohya.exit_code == 0:
        written, beside = (load_file(f) for f in (tmp_path / "lora.safetensors", tmp_path / "policy" / KOHYA))
        assert written.keys() == beside.keys()
        for name, tensor in beside.items():
            torch.testing.assert_close(written[name], tensor, rtol=0, atol=1e-6)


def test_what_a_layout_cannot_express_is_rejected(checkpoint, tmp_path):
    put_policy(tmp_path / "policy", ModelSection(checkpoint=str(checkpoint("sd3"))))
    single = export(tmp_path / "policy", "--to", tmp_path / "a.safetensors", "--layout", "single-file")
    assert single.exit_code == 1
    assert "SDXL only" in single.output
    (tmp_path / "taken").mkdir()
    assert "exists already" in export(tmp_path / "policy", "--to", tmp_path / "taken").output
    moved = export(tmp_path / "policy", "--to", tmp_path / "b", "--base", checkpoint("sd35"))
    assert "another model" in moved.output


def test_a_policy_continues_with_another_scale(sdxl, noise, tmp_path):
    """The file has the scale in its weights; the next training has its own."""
    model = ModelSection(checkpoint=str(sdxl))
    expected = answer(put_policy(tmp_path / "policy", model, lora_alpha=3.0), noise)
    family = load_family(model, CPU)
    Policy(family, TrainSection(beta=1.0, lora_rank=2, lora_alpha=8.0), 0, tmp_path / "policy")
    torch.testing.assert_close(answer(family, noise), expected, rtol=0, atol=1e-5)
