"""Checkpoints that must not be used are rejected with the place and the reason."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from capo.diffusion import load_family
from capo.pretrained.model_loading import quiet
from capo.recipe import ModelSection

TEXT_2 = "text_encoder_2/model.safetensors"
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def checkpoint(sdxl, tmp_path):
    return shutil.copytree(sdxl, tmp_path / "model")


def load(folder):
    """Load every part of a checkpoint."""
    family = load_family(ModelSection(checkpoint=str(folder)), torch.device("cpu"))
    family.encode(["a cat"])
    return family


def edit(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def edit_index(folder, **values):
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (UNET, lambda w: w.pop("conv_in.weight"), "unet lacks weights .* conv_in.weight"),
        (UNET, lambda w: w.update(more=torch.ones(1)), "unet has unknown weights .* more"),
        (UNET, lambda w: w.update({"conv_in.weight": torch.ones(3, 4, 3, 3)}), "unet cannot be loaded"),
        (UNET, lambda w: w["conv_in.bias"].fill_(torch.nan), "not finite: conv_in.bias"),
        ("vae/diffusion_pytorch_model.safetensors", lambda w: w.pop("decoder.conv_in.bias"), "vae lacks"),
        ("text_encoder/model.safetensors", lambda w: w.popitem(), "text_encoder lacks weights"),
        (TEXT_2, lambda w: w["text_projection.weight"].fill_(torch.inf), "not finite: text_projection"),
    ],
    ids=["missing", "unknown", "shape", "nan", "vae", "text encoder", "text encoder 2"],
)
def test_weights_that_do_not_fit_are_rejected(checkpoint, file, change, message):
    edit(checkpoint / file, change)
    with pytest.raises(ValueError, match=message):
        load(checkpoint)


def test_garbage_is_rejected(checkpoint):
    (checkpoint / UNET).write_bytes(b"\x08\0\0\0\0\0\0\0 garbage")
    with pytest.raises(ValueError, match="unet cannot be loaded"):
        load(checkpoint)


class Malice:
    """Touches a file when unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (type(self.marker).touch, (self.marker,))


def test_pickles_are_not_read(checkpoint, tmp_path):
    marker = tmp_path / "executed"
    (checkpoint / UNET).unlink()
    torch.save({"conv_in.weight": Malice(marker)}, checkpoint / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="unet has only pickled weights"):
        load(checkpoint)
    assert not marker.exists()


def test_a_pickle_of_tensors_is_not_read_in_place_of_a_lost_file(checkpoint):
    torch.save(load_file(checkpoint / UNET), checkpoint / "unet" / "diffusion_pytorch_model.bin")
    (checkpoint / UNET).unlink()
    (checkpoint / UNET).symlink_to("nowhere")
    with pytest.raises(ValueError, match="unet cannot be loaded"):
        load(checkpoint)


def test_a_pickle_under_another_name_is_not_read(checkpoint, tmp_path):
    marker = tmp_path / "executed"
    torch.save({"conv_in.weight": Malice(marker)}, checkpoint / UNET)
    with pytest.raises(ValueError, match="unet cannot be loaded"):
        load(checkpoint)
    assert not marker.exists()


@pytest.mark.parametrize("part", ["tokenizer", "scheduler", "unet"])
def test_code_of_a_checkpoint_is_not_run(checkpoint, tmp_path, part):
    marker = tmp_path / "executed"
    code = f"from pathlib import Path; Path({str(marker)!r}).touch()\nclass Evil: pass\n"
    (checkpoint / part / "evil.py").write_text(code)
    edit_index(checkpoint, **{part: ["evil", "Evil"]})
    with pytest.raises(ValueError, match="evil"):
        load(checkpoint)
    assert not marker.exists()


def test_an_unknown_pipeline_is_rejected_with_the_supported_ones(checkpoint):
    edit_index(checkpoint, _class_name="KandinskyPipeline")
    with pytest.raises(ValueError, match=r"KandinskyPipeline; supported: .*StableDiffusionXLPipeline"):
        load(checkpoint)


@pytest.mark.parametrize(
    "index",
    [
        "[]",
        '"text"',
        "{}",
        '{"_class_name": ["StableDiffusionPipeline"]}',
        '{"_class_name": "X", "unet": ["a"]}',
    ],
)
def test_a_malformed_index_is_named(checkpoint, index):
    (checkpoint / "model_index.json").write_text(index)
    with pytest.raises(ValueError, match=r"model_index.json of .* is malformed"):
        load(checkpoint)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("text_encoder/config.json", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1,000,000,000"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**9}, "num_train_timesteps is"),
        ("text_encoder/config.json", {"text_config": {"vocab_size": 10**9}}, "vocab_size is 1,000,000,000"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 10**9}, "model_max_length is 1,000,000,000"),
        ("text_encoder/config.json", {"vocab_size": "9"}, "vocab_size"),
        ("text_encoder/config.json", None, "cannot be (built|loaded)"),
        ("unet/config.json", None, "cannot be (built|loaded)"),
        ("tokenizer/tokenizer_config.json", None, "tokenizer"),
        ("scheduler/scheduler_config.json", {"beta_start": "9"}, "cannot be built as its configurations say"),
    ],
)
def test_malformed_configurations_are_named(checkpoint, file, values, message):
    path = checkpoint / file
    path.write_text("[]" if values is None else json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(ValueError, match=rf"model\.checkpoint: [\s\S]*{message}"):
        load(checkpoint)


@pytest.mark.parametrize("name", ["/nowhere", "no such id!", "."])
def test_a_path_without_a_checkpoint_is_rejected(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"model\.checkpoint: .* is neither a diffusers directory"):
        load(name)


def test_half_precision_weights_are_converted_to_the_models_precision(tmp_path):
    with quiet():
        folder = tiny.sdxl(tmp_path / "half", dtype=torch.float16)
    family = load(folder)
    assert {p.dtype for p in family.denoiser.parameters()} == {torch.float32}
    assert {t.dtype for t in family.encode(["a cat"]).values()} == {torch.float32}
