"""Packages that a tokenizer needs are named before anything is loaded."""

import shutil

import pytest

from capo.diffusion.model_checks import model_check
from capo.pretrained import tokenizer_packages
from capo.pretrained.tokenizer_packages import missing_packages
from capo.recipe import GenerateSection, ModelSection, TrainSection


@pytest.fixture
def installed(monkeypatch):
    """The packages that count as installed."""
    names = {"protobuf"}
    monkeypatch.setattr(tokenizer_packages, "_installed", lambda name: name in names)
    return names


def test_a_tokenizer_that_must_be_converted_needs_two_packages(tmp_path, installed):
    assert list(missing_packages(tmp_path)) == []
    (tmp_path / "spiece.model").touch()
    (sentence,) = missing_packages(tmp_path)
    assert str(tmp_path / "spiece.model") in sentence
    assert "pip install sentencepiece" in sentence
    installed.add("sentencepiece")
    assert list(missing_packages(tmp_path)) == []
    installed.clear()
    assert len(list(missing_packages(tmp_path))) == 2
    (tmp_path / "tokenizer.json").touch()  # converted already
    assert list(missing_packages(tmp_path)) == []


def test_the_check_of_a_model_names_the_packages_of_the_parts_that_it_uses(sdxl, tmp_path, installed):
    folder = shutil.copytree(sdxl, tmp_path / "model")
    for part in ("tokenizer_2", "tokenizer_3"):  # the index has no tokenizer_3
        (folder / part).mkdir(exist_ok=True)
        (folder / part / "tokenizer.json").unlink(missing_ok=True)
        (folder / part / "spiece.model").touch()
    section = ModelSection(checkpoint=str(folder))
    check = model_check(section, GenerateSection(), TrainSection(beta=1.0), "generate")
    (finding,) = check.findings()
    assert (finding.field, finding.severity) == ("model.checkpoint", "error")
    assert str(folder / "tokenizer_2" / "spiece.model") in finding.message
