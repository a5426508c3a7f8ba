"""Answers are remembered until something that they depend on changes."""

import os

import pytest

from capo.store import remembered
from capo.store.remembered import described_files, remember


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CAPO_CACHE", str(tmp_path / "cache"))


def never():
    raise AssertionError("asked again")


def test_an_answer_is_found_once_for_every_question_and_version(monkeypatch):
    answer = {"size": [32, 64], "none": None}
    assert remember(["facts", 1], lambda: answer) == answer
    assert remember(["facts", 1], never) == answer
    assert remember(["facts", 2], lambda: 0) == remember(["facts", 2], never) == 0
    for name, value in (("_own_code", "edited"), ("versions", {"torch": "99"})):
        with monkeypatch.context() as patched:
            patched.setattr(remembered, name, lambda value=value: value)
            assert remember(["facts", 1], lambda: "new") == "new"
    assert remember(["facts", 1], never) == answer


def test_no_answer_and_a_damaged_cache_are_not_kept(tmp_path):
    assert remember("passing", lambda: None) is None
    assert remember("passing", lambda: 1) == 1
    (tmp_path / "cache" / "answers.sqlite").write_bytes(b"not a database")
    assert remember("passing", lambda: 2) == 2


def test_a_folder_is_described_by_what_is_read_of_it(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()

    def write(name, text):
        (folder / name).write_text(text)
        os.utime(folder / name, (1, 1))
        return described_files(folder, ["*.json"])

    first = write("config.json", "{}")
    longer = write("weights.safetensors", "1")
    assert first != longer == write("weights.safetensors", "2"), "weights count by their size"
    assert write("config.json", "[]") not in (first, longer)
    (folder / "config.json").write_text("changing now")
    assert described_files(folder, ["*.json"]) is None


def test_a_file_is_described_by_its_content(tmp_path):
    path, known = tmp_path / "style.safetensors", []
    for text in ("1", "2", "1"):
        path.write_text(text)
        os.utime(path, (1, len(known) + 1))
        known.append(described_files(path, ["*.safetensors"]))
    assert known[0] == known[2] != known[1]
    with pytest.raises(FileNotFoundError):
        described_files(tmp_path / "absent", ["*"])
