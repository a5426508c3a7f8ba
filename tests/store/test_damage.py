"""Damaged, malformed and missing files of a run directory are reported by name and never used."""

import errno
import json
import os
import re
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from capo.store import Run, WorkspaceError
from capo.store.replaced import replaced_folders


@pytest.fixture
def damaged(samples):
    """Write a file of each format and flip a bit in one; return a new artifact and a call that reads it."""

    def damage(name, committed):
        samples.write_table("t.parquet", pa.table({"a": list(range(1000))}))
        samples.write_tensors("w.safetensors", {"w": torch.ones(100)})
        samples.write_json("j.json", {"a": "b"})
        if committed:
            samples.commit()
        data = bytearray((samples.folder / name).read_bytes())
        data[len(data) // 2 if name != "j.json" else 0] ^= 0x80
        (samples.folder / name).write_bytes(data)
        again = Run(samples.run.path).artifact("samples")
        read = {".parquet": again.read_table, ".safetensors": again.read_bytes, ".json": again.read_json}
        return again, lambda: read[Path(name).suffix](name)

    return damage


@pytest.mark.parametrize("name", ["t.parquet", "w.safetensors", "j.json"])
def test_a_flipped_bit_in_a_committed_file_is_never_used(damaged, name):
    artifact, read = damaged(name, committed=True)
    for use in (read, artifact.verify, lambda: artifact.path(name), artifact.path):
        with pytest.raises(WorkspaceError, match=rf"{name} is damaged .* remove it"):
            use()


def test_a_refusal_by_the_system_is_not_called_damage(damaged, monkeypatch):
    """A file that cannot be opened right now may be intact, so the message must not say to remove it."""
    _, read = damaged("t.parquet", committed=True)
    refusal = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    monkeypatch.setattr(Path, "read_bytes", lambda path: (_ for _ in ()).throw(refusal))
    with pytest.raises(WorkspaceError, match=r"t.parquet: Too many open files$"):
        read()


@pytest.mark.parametrize("name", ["t.parquet", "w.safetensors", "j.json"])
def test_a_flipped_bit_is_detected_before_the_commit_too(damaged, name):
    _, read = damaged(name, committed=False)
    with pytest.raises(WorkspaceError, match=rf"{name} is damaged .* remove it"):
        read()


def test_a_file_that_changed_after_it_was_read_is_damaged(samples):
    samples.write_bytes("a.bin", b"a")
    samples.read_bytes("a.bin")
    (samples.folder / "a.bin").write_bytes(b"longer")
    with pytest.raises(WorkspaceError, match=r"a\.bin is damaged"):
        samples.commit()


def test_a_missing_file_makes_the_artifact_partial_and_the_rest_is_kept(samples, inputs):
    samples.write_bytes("a.bin", b"a")
    samples.write_bytes("b.bin", b"b")
    samples.commit()
    (samples.folder / "a.bin").unlink()
    assert not samples.done
    assert samples.lost(samples.manifest()) == "a.bin"
    (samples.folder / "a.bin").write_bytes(b"")
    assert not samples.done
    (samples.folder / "a.bin").unlink()
    samples.begin(inputs)
    assert samples.files() == ["b.bin"]


def test_reading_a_missing_file_names_the_stage_to_rerun(samples):
    with pytest.raises(WorkspaceError, match=r"x\.json does not exist; rerun the samples stage"):
        samples.read_json("x.json")


def test_manifests_of_another_layout_are_rejected(samples):
    samples.commit()
    path = samples.run.path / "manifests/samples.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(WorkspaceError, match="layout 2"):
        samples.manifest()


OF_BOTH = ("{", "[]", "7", "inputs", "versions", b"\xff")


@pytest.mark.parametrize(
    ("record", "change"),
    [
        *(("samples.json", change) for change in (*OF_BOTH, "files", "summary")),
        *(("samples.inputs.json", change) for change in OF_BOTH),
    ],
)
def test_malformed_manifests_are_named(samples, record, change):
    """`change` is the whole text of the file, or the field that a record of an earlier version lacks."""
    samples.write_bytes("a", b"data")
    samples.commit()
    path = samples.run.path / "manifests" / record
    values = json.loads(path.read_text())
    if change in values:
        del values[change], values["blake2b"]
        path.write_text(json.dumps(values))
    else:
        path.write_bytes(change if isinstance(change, bytes) else change.encode())
    reader = Run(samples.run.path).artifact("samples")
    with pytest.raises(WorkspaceError, match=rf"{record} is damaged"):
        _ = reader.begun() if "inputs" in record else reader.done


@pytest.mark.parametrize("record", ["samples.json", "samples.inputs.json"])
def test_a_changed_digit_of_a_manifest_is_detected(samples, record):
    """It is still a manifest, with another number."""
    samples.commit({"samples": 7})
    path = samples.run.path / "manifests" / record
    path.write_text(re.sub(r'"(samples|seed)": \d', r'"\1": 8', path.read_text()))
    reader = Run(samples.run.path).artifact("samples")
    with pytest.raises(WorkspaceError, match=rf"{record} is damaged .*digest"):
        _ = reader.begun() if "inputs" in record else reader.summary


def test_a_changed_digit_of_what_was_replaced_is_detected(run, samples):
    samples.write_bytes("a", b"data")
    samples.begin({"seed": 5}, force=True)
    (record,) = run.path.glob("replaced/*/replaced.json")
    record.write_text(record.read_text().replace("5", "6"))
    with pytest.raises(WorkspaceError, match=r"replaced\.json is damaged .*digest"):
        replaced_folders(run.path)


def test_manifests_of_earlier_versions_have_no_digest_of_their_own(samples, inputs):
    samples.commit({"samples": 7})
    for path in (samples.run.path / "manifests").glob("*.json"):
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "blake2b"}))
    reader = Run(samples.run.path).artifact("samples")
    assert (reader.begun(), reader.summary) == (inputs, {"samples": 7})


@pytest.mark.parametrize("files", [[], {"a": 4}, {"a": {"bytes": "4", "blake2b": "0"}}, {"a": {"bytes": 4}}])
def test_malformed_lists_of_files_are_named(samples, files):
    """In a manifest of an earlier version, which has no digest of its own."""
    samples.commit()
    path = samples.run.path / "manifests/samples.json"
    values = json.loads(path.read_text()) | {"files": files}
    del values["blake2b"]
    path.write_text(json.dumps(values))
    with pytest.raises(WorkspaceError, match=r"samples\.json is damaged"):
        _ = samples.done


@pytest.mark.parametrize("line", ["{", "[]", "7", "{}"])
def test_a_malformed_line_of_the_timings_is_named(run, line):
    run.record_timing("train", seconds=1.0)
    timings = run.path / "timings.jsonl"
    timings.write_text(timings.read_text() + line + "\n")
    with pytest.raises(WorkspaceError, match=r"timings\.jsonl, line 2"):
        run.timings()


@pytest.mark.parametrize("committed", [False, True])
def test_a_flipped_bit_anywhere_in_a_table_is_an_error_or_harmless(samples, committed):
    """The column that training reads without the digest of the whole file."""
    ids = ["a dog", "ein Häuschen"]
    samples.write_table("t.parquet", pa.table({"prompt_id": ids, "n": [1, 2]}))
    if committed:
        samples.commit()
    path = samples.folder / "t.parquet"
    data = path.read_bytes()
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with suppress(WorkspaceError):
            assert samples.read_columns("t.parquet", ["prompt_id"])["prompt_id"].to_pylist() == ids


def test_a_missing_file_of_a_folder_is_an_error(samples):
    with samples.write_directory("best") as folder:
        (folder / "a").write_bytes(b"a")
        (folder / "b").write_bytes(b"b")
    samples.commit()
    (samples.folder / "best/b").unlink()
    with pytest.raises(WorkspaceError, match=r"best/b is missing"):
        Run(samples.run.path).artifact("samples").path("best")
