"""Tensor files: the format of safetensors, one pass, and rows that are verified alone."""

import json
from contextlib import suppress

import pytest
import torch
from safetensors.torch import load_file

from capo.store import Run, WorkspaceError
from capo.store.manifest import describe, sealed
from capo.store.tensor_file import DTYPES, HashedFile, row_digests, write_tensors


def test_every_type_can_be_read_by_safetensors(tmp_path):
    tensors = {name: torch.arange(6).to(getattr(torch, dtype)).view(2, 3).T for name, dtype in DTYPES.items()}
    tensors |= {"empty": torch.empty(0, 4), "scalar": torch.tensor(2.5), "twice": tensors["F32"]}
    with HashedFile(tmp_path / "w.safetensors") as file:
        write_tensors(file, tensors, {"a": "ü"} | row_digests(tensors))
    read = load_file(tmp_path / "w.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name].float(), tensor.float())


def test_the_description_is_that_of_the_finished_file(tmp_path):
    with HashedFile(tmp_path / "w") as file:
        write_tensors(file, {"w": torch.ones(3)})
    assert describe(tmp_path / "w").items() <= file.description.items()


@pytest.fixture
def tensors(samples):
    tensors = {"w": torch.arange(12.0).view(3, 4), "b": torch.arange(3, dtype=torch.bfloat16).view(3, 1)}
    samples.write_tensors("w.safetensors", tensors)
    samples.commit()
    return tensors


def test_a_flipped_bit_anywhere_is_never_in_a_row(samples, tensors):
    path = samples.folder / "w.safetensors"
    data = path.read_bytes()
    reader, rejected = Run(samples.run.path).artifact("samples"), 0
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        rejected += 1
        with suppress(WorkspaceError):
            row = reader.read_row("w.safetensors", 1)
            assert all(torch.equal(row[name], tensor[1]) for name, tensor in tensors.items())
            rejected -= 1
    # Everything but the two rows that are not read: 4 floats and 1 bfloat16 each.
    assert rejected == len(data) - 2 * (16 + 2)


def test_a_row_is_read_without_the_others(samples, monkeypatch):
    samples.write_tensors("w.safetensors", {"w": torch.randn(1000, 1000)})
    samples.commit()
    reader = Run(samples.run.path).artifact("samples")
    monkeypatch.setattr(type(reader), "_verify", lambda *_: pytest.fail("read as a whole"))
    assert reader.read_row("w.safetensors", 999)["w"].shape == (1000,)
    with pytest.raises(WorkspaceError, match="not a row 1000"):
        reader.read_row("w.safetensors", 1000)


def test_a_file_without_digests_of_rows_is_verified_as_a_whole(samples, tensors):
    """So are the files of version 0.1."""
    path = samples.run.path / "manifests/samples.json"
    record = json.loads(path.read_text().replace('"header"', '"unknown"'))
    path.write_text(json.dumps(sealed(record)))
    reader = Run(samples.run.path).artifact("samples")
    assert torch.equal(reader.read_row("w.safetensors", 2)["w"], tensors["w"][2])
    data = bytearray((samples.folder / "w.safetensors").read_bytes())
    data[-1] ^= 1
    (samples.folder / "w.safetensors").write_bytes(data)
    with pytest.raises(WorkspaceError, match=r"w\.safetensors is damaged"):
        Run(samples.run.path).artifact("samples").read_row("w.safetensors", 2)
