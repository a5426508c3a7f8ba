"""Policies on disk: found in folders and run directories, and verified before they are used."""

import json
import shutil

import pytest

from capo.diffusion.saved import find_policy, is_policy
from capo.store import Run, WorkspaceError


@pytest.fixture
def run(tmp_path):
    """A run directory whose training is done, with a policy of a few bytes."""
    with Run.open(tmp_path / "run") as opened:
        artifact = opened.artifact("train")
        artifact.begin({})
        artifact.write_json("best/capo.json", {"adaptation": "full"})
        artifact.write_bytes("best/unet/weights", b"0123456789")
        artifact.commit()
    return tmp_path / "run"


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("inside", ["", "train/best"])
def test_a_damaged_policy_of_a_run_is_rejected(run, inside):
    assert find_policy(run / inside).record == {"adaptation": "full"}
    flip(run / "train" / "best" / "unet" / "weights")
    with pytest.raises(WorkspaceError, match=r"weights is damaged"):
        find_policy(run / inside)


@pytest.mark.parametrize("inside", ["", "train/best"])
def test_a_policy_of_a_run_with_a_missing_file_is_rejected(run, inside):
    (run / "train" / "best" / "unet" / "weights").unlink()
    with pytest.raises(WorkspaceError, match=r"unet/weights"):
        find_policy(run / inside)


def test_a_copy_outside_of_a_run_is_a_policy_too(run, tmp_path):
    copy = shutil.copytree(run / "train" / "best", tmp_path / "copy")
    assert is_policy(copy)
    assert find_policy(copy).folder == copy
    assert find_policy(copy).identity == find_policy(run).identity


@pytest.mark.parametrize("record", ["[]", "{", "{}", '{"adaptation": ["lora"]}'])
def test_a_malformed_record_is_named(tmp_path, record):
    (tmp_path / "capo.json").write_text(record)
    with pytest.raises(ValueError, match=r"capo.json (is not JSON|must be an object)"):
        find_policy(tmp_path)


def test_a_folder_without_a_record_is_not_a_policy(tmp_path):
    (tmp_path / "weights").write_text(json.dumps({}))
    assert not is_policy(tmp_path)
    with pytest.raises(ValueError, match=r"is not a policy"):
        find_policy(tmp_path)
