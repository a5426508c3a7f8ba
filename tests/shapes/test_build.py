import json

import pytest
import torch

from capo.shapes.build import build, fit, vae

SCALE = 0.002
"""16 steps."""


class Interrupted(Exception):
    pass


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(vae, "BATCH", 8)
    monkeypatch.setattr(fit, "SAVE_EVERY", 5)
    precision = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(precision)


def contents(folder):
    """Weights and configuration: where they came from holds seconds."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name != "origin.json"
    }


@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step")
def test_an_interrupted_build_goes_on_and_ends_with_the_same_bytes(tmp_path, monkeypatch):
    build(tmp_path / "whole", parts=("vae",), scale=SCALE)
    saves = []

    def save(path, step, *rest, original=fit._save):
        original(path, step, *rest)
        saves.append(step)
        if len(saves) in (1, 3):  # at step 5, then at step 10
            raise Interrupted

    monkeypatch.setattr(fit, "_save", save)
    for _ in range(2):
        with pytest.raises(Interrupted):
            build(tmp_path / "stopped", parts=("vae",), scale=SCALE)
    build(tmp_path / "stopped", parts=("vae",), scale=SCALE)
    assert saves == [5, 10, 15, 16]
    whole = contents(tmp_path / "whole")
    assert whole == contents(tmp_path / "stopped")
    assert set(whole) == {"base/vae/config.json", "base/vae/diffusion_pytorch_model.safetensors"}
    origin = json.loads((tmp_path / "stopped/origin.json").read_text())
    assert origin["vae"]["command"] == "capo shapes build --to DIR --parts vae --device cpu"
    assert origin["vae"]["scale"] == SCALE


def test_an_unknown_part_is_an_error_that_names_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"no such part: vea; there are vae, base, preference"):
        build(tmp_path / "built", parts=("vea",))
    assert not (tmp_path / "built").exists()
