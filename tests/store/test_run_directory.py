import errno
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

import fake_stages
from capo.recipe import load_recipe, parse_recipe
from capo.store import Artifact, Run, StaleArtifact, WorkspaceError, atomic
from capo.store.atomic import failpoint
from capo.store.tensor_file import HashedFile

# Life of an artifact.


def test_an_artifact_is_begun_filled_and_committed(run, samples, inputs):
    assert samples.manifest() is None
    assert samples.begun() == inputs
    samples.write_bytes("shard-00000.bin", b"data")
    assert not samples.done
    samples.commit({"samples": 1})
    assert samples.done
    assert samples.summary == {"samples": 1}
    record = json.loads((run.path / "manifests/samples.json").read_text())
    assert record["artifact"] == "samples"
    assert record["inputs"] == inputs
    assert record["files"]["shard-00000.bin"]["bytes"] == 4
    assert record["versions"]["torch"] == torch.__version__


def test_beginning_again_with_the_same_inputs_keeps_the_files(samples, inputs):
    samples.write_bytes("shard-00000.bin", b"data")
    samples.begin(dict(reversed(inputs.items())))
    assert samples.files() == ["shard-00000.bin"]


def test_changed_inputs_are_rejected_with_every_changed_field(samples):
    samples.write_bytes("shard-00000.bin", b"data")
    changed = {"seed": 0, "generate.guidance_scale": 5.0, "@prompts": "def", "generate.height": 64}
    with pytest.raises(StaleArtifact) as refused:
        samples.begin(changed)
    assert refused.value.changes == {
        "samples": {
            "generate.guidance_scale": (7.5, 5.0),
            "@prompts": ("abc", "def"),
            "generate.height": (None, 64),
        }
    }
    message = str(refused.value)
    assert "generate.guidance_scale: 7.5 → 5.0" in message
    assert "generate.height: none → 64" in message
    assert "prompts changed" in message
    assert "--force" in message
    assert samples.files() == ["shard-00000.bin"]


def test_force_restarts_only_if_the_inputs_changed(samples, inputs):
    samples.write_bytes("folder/shard-00000.bin", b"data")
    samples.begin(inputs, force=True)
    assert samples.has("folder/shard-00000.bin")
    samples.commit()
    samples.begin(inputs | {"seed": 1}, force=True)
    assert not samples.has("folder")
    assert samples.manifest() is None
    assert samples.begun() == inputs | {"seed": 1}


def test_prompts_and_pairs_are_files_in_the_run_directory(run):
    table = pa.table({"a": [1]})
    for name in ("prompts", "pairs"):
        artifact = run.artifact(name)
        artifact.begin({})
        artifact.write_table(f"{name}.parquet", table)
        with pytest.raises(ValueError, match="not a path inside"):
            artifact.write_table("other.parquet", table)
        artifact.commit()
        assert list(artifact.manifest().files) == [f"{name}.parquet"]
    assert run.artifact("pairs").done


def test_the_digest_depends_only_on_contents_and_names(tmp_path):
    def digest(name, files, inputs, summary):
        with Run.open(tmp_path / name) as run:
            artifact = run.artifact("samples")
            artifact.begin(inputs)
            for relative, data in files.items():
                artifact.write_bytes(relative, data)
            artifact.commit(summary)
            return artifact.digest

    first = digest("a", {"x": b"1", "y": b"2"}, {"seed": 0}, {"n": 1})
    assert digest("b", {"y": b"2", "x": b"1"}, {"seed": 1}, {"n": 2}) == first
    assert digest("c", {"x": b"1", "y": b"3"}, {"seed": 0}, {}) != first
    assert digest("d", {"x": b"1", "z": b"2"}, {"seed": 0}, {}) != first


def test_writing_before_begin_or_after_commit_is_an_error(run, samples):
    samples.write_bytes("a", b"")
    samples.commit()
    for artifact in (samples, run.artifact("train")):
        for write in (lambda a: a.write_bytes("b", b""), lambda a: a.write_directory("c").__enter__()):
            with pytest.raises(WorkspaceError, match="only after `begin` and before `commit`"):
                write(artifact)
    with pytest.raises(WorkspaceError, match="only after `begin`"):
        samples.remove("a")
    assert samples.done


def test_an_unfinished_artifact_has_no_digest(samples):
    with pytest.raises(WorkspaceError, match="samples is not complete"):
        _ = samples.digest


def test_resuming_with_another_library_version_is_reported(samples, monkeypatch, capsys, inputs):
    monkeypatch.setenv("CAPO_QUIET", "0")
    monkeypatch.setattr("capo.store.artifact.versions", lambda: {"torch": "99"})
    samples.begin(inputs)
    assert f"begun with torch {torch.__version__}, resumed with 99" in capsys.readouterr().err


@pytest.mark.parametrize("relative", ["../x", "/etc/passwd", "a/../../x", "", ".."])
def test_paths_outside_the_artifact_are_rejected(samples, relative):
    for use in (samples.has, samples.remove, lambda r: samples.write_bytes(r, b"")):
        with pytest.raises(ValueError, match="not a path inside samples"):
            use(relative)


# Formats.


def test_every_format_round_trips(samples):
    table = pa.table({"a": [1, 2], "b": ["x", None]}).replace_schema_metadata({"k": "v"})
    samples.write_table("t.parquet", table)
    assert samples.read_table("t.parquet").equals(table, check_metadata=True)
    assert samples.read_table("t.parquet", ["b"]).column_names == ["b"]
    tensors = {"w": torch.arange(6.0).reshape(2, 3).T, "n": torch.tensor(3)}
    samples.write_tensors("w.safetensors", tensors)
    read = load_file(samples.path("w.safetensors"))
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[k], tensors[k]) for k in tensors)
    samples.write_json("j.json", {"é": [1.5, None]})
    assert samples.read_json("j.json") == {"é": [1.5, None]}
    rows = [{"text": "a\u2028b\nc"}, {"loss": 0.1}]
    samples.write_json_lines("l.jsonl", rows)
    assert samples.read_json_lines("l.jsonl") == rows


def test_nan_is_rejected_in_json(samples):
    with pytest.raises(ValueError, match="JSON"):
        samples.write_json("j.json", {"loss": float("nan")})
    assert not samples.has("j.json")


def test_equal_tensors_make_equal_files(samples):
    """Neither the tensors nor the digests of their rows depend on the order."""
    for name, order in (("a", "zyxwvu"), ("b", "uvwxyz")):
        samples.write_tensors(f"{name}.safetensors", {key: torch.ones(2) for key in order})
    assert samples.read_bytes("a.safetensors") == samples.read_bytes("b.safetensors")


def test_tensor_files_get_the_access_rights_of_their_folder(samples):
    samples.folder.mkdir()
    samples.folder.chmod(0o750)
    samples.write_tensors("w.safetensors", {"w": torch.zeros(1)})
    assert (samples.folder / "w.safetensors").stat().st_mode & 0o777 == 0o640


def test_the_manifest_is_read_once_for_all_files(run, samples, monkeypatch):
    """It has a line for every file."""
    for name in "abc":
        samples.write_bytes(name, b"data")
    samples.commit()
    read = []
    real = Artifact.manifest
    monkeypatch.setattr(Artifact, "manifest", lambda self: read.append(self) or real(self))
    reader = Run(run.path).artifact("samples")
    assert [reader.read_bytes(name) for name in "abc"] == [b"data"] * 3
    assert len(read) == 1


# Folders.


def test_a_folder_appears_complete_and_replaces_the_old_one(samples):
    for text in ("first", "second"):
        with samples.write_directory("best") as folder:
            (folder / "inner").mkdir()
            (folder / "inner/a.txt").write_text(text)
            assert samples.has("best") == (text == "second")
    assert (samples.path("best") / "inner/a.txt").read_text() == "second"
    assert samples.files() == ["best/inner/a.txt"]
    samples.remove("best")
    assert not samples.has("best")


@pytest.fixture
def flushed(monkeypatch):
    """The inodes of the files and folders that were flushed to disk, each with `named()` at that time."""

    class Flushed(list):
        named = staticmethod(lambda: None)

    found = Flushed()
    monkeypatch.setattr(os, "fsync", lambda handle: found.append((os.fstat(handle).st_ino, found.named())))
    return found


def inode(path):
    return path.stat().st_ino


def test_contents_are_flushed_before_they_get_their_name_and_its_folder_after(tmp_path, flushed):
    new = tmp_path / "new"
    flushed.named = new.exists
    with atomic.write_file(new) as file:
        file.write_bytes(b"text")
    assert flushed == [(inode(new), False), (inode(tmp_path), True)]
    new.unlink()
    flushed.clear()
    with atomic.write_folder(new) as folder:
        (folder / "weights").write_bytes(b"numbers")
    assert flushed == [(inode(new / "weights"), False), (inode(new), False), (inode(tmp_path), True)]
    flushed.clear()
    flushed.named = (tmp_path / "linked").exists
    atomic.link(new / "weights", tmp_path / "linked")
    assert flushed == [(inode(new / "weights"), False), (inode(tmp_path), True)]
    flushed.clear()
    flushed.named = (tmp_path / "folder/moved").exists
    atomic.move(new, tmp_path / "folder/moved")
    assert flushed == [(inode(tmp_path / "folder"), True), (inode(tmp_path), True)]


def test_a_file_is_on_record_on_disk_before_it_gets_its_name(run, samples, flushed):
    flushed.named = (samples.folder / "shard-0").exists
    samples.write_bytes("shard-0", b"data")
    record = run.path / "manifests/samples.written.jsonl"
    assert (inode(record), False) in flushed
    assert flushed[-1] == (inode(samples.folder), True)
    assert "shard-0" in record.read_text()


def test_a_file_that_another_process_wrote_meanwhile_is_no_foreign_one(run, samples):
    """Its record is read again before a file is called foreign."""
    samples.write_json("first", 1)
    other = run.access().open("part-1").artifact("samples")
    other.write_json("second", 2)
    samples.write_json("second", 3)
    assert samples.read_json("second") == 3


def test_files_that_several_processes_wrote_are_replaced_with_their_records(run, samples):
    samples.write_json("first", 1)
    run.access().open("part-1").artifact("samples").write_json("second", 2)
    samples.begin({"seed": 1}, force=True)
    former = samples.replaced
    assert [former.read_json(name) for name in ("first", "second")] == [1, 2]
    assert samples.put_back()
    assert samples.files() == ["first", "second"]


def test_processes_that_write_one_file_use_temporary_files_of_their_own(run):
    names = set()
    for writer in (run, *(run.access().open(name) for name in ("part-0", "part-1"))):
        with writer.replacing(run.path / "file") as temporary:
            temporary.write_text("text")
            names.add(temporary.name)
    assert names == {".capo-tmp-file", ".capo-tmp-part-0-file", ".capo-tmp-part-1-file"}


@pytest.mark.parametrize("replaced", [True, False], ids=["before", "after"])
def test_a_folder_that_no_run_has_is_replaced_after_a_kill(tmp_path, replaced):
    """The kill came just before or just after the new folder got its name; only the next writer cleans up."""
    for name in (".capo-old-figures", ".capo-tmp-figures" if replaced else "figures"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plot.svg").write_text("earlier")
    for text in ("new", "newer"):
        with atomic.write_folder(tmp_path / "figures") as folder:
            (folder / "plot.svg").write_text(text)
        assert (tmp_path / "figures/plot.svg").read_text() == text
        assert [path.name for path in tmp_path.iterdir()] == ["figures"]


def test_an_error_while_writing_a_folder_keeps_the_old_one(samples):
    with samples.write_directory("best") as folder:
        (folder / "a.txt").write_text("old")

    def fail():
        with samples.write_directory("best") as folder:
            (folder / "a.txt").write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (samples.folder / "best/a.txt").read_text() == "old"
    assert [p.name for p in samples.folder.iterdir()] == ["best"]


# Faults of the machine.


def test_a_full_disk_leaves_no_half_written_file(samples, monkeypatch):
    def full(self, data):
        io.BufferedWriter.write(self, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(HashedFile, "write", full)
    with pytest.raises(WorkspaceError, match=r"a\.bin: no space left \([\d,]+ bytes free\)"):
        samples.write_bytes("a.bin", b"data")
    assert list(samples.folder.iterdir()) == []


def test_a_full_disk_leaves_a_file_that_is_appended_to_as_it_was(samples, monkeypatch):
    def full(path):
        if path.name == "log.jsonl":
            patch.undo()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    samples.write_json_lines("log.jsonl", [{"step": 1}])
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "flush", full)
        with pytest.raises(WorkspaceError, match=r"log\.jsonl: no space left"):
            samples.append_json_lines("log.jsonl", [{"step": 2}])
    assert [p.name for p in samples.folder.iterdir()] == ["log.jsonl"]
    samples.append_json_lines("log.jsonl", [{"step": 3}])
    assert samples.read_json_lines("log.jsonl") == [{"step": 1}, {"step": 3}]


def test_a_full_disk_inside_safetensors_is_reported_too(samples):
    def fail():
        with samples.write_directory("best") as folder:
            (folder / "w.safetensors").write_bytes(b"half")
            raise SafetensorError("I/O error: No space left on device (os error 28)")

    with pytest.raises(WorkspaceError, match="no space left"):
        fail()
    assert list(samples.folder.iterdir()) == []


def test_a_file_whose_record_does_not_fit_on_the_disk_does_not_appear(samples):
    """The system then writes a part of the line, without an error."""
    record = samples.run.path / "manifests/samples.written.jsonl"
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (record.stat().st_size + 10, limits[1]))
    try:
        with pytest.raises(WorkspaceError, match=r"a\.bin"):
            samples.write_bytes("a.bin", b"data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert samples.files() == []
    samples.write_bytes("a.bin", b"data")
    assert samples.files() == ["a.bin"]


def test_a_record_that_cannot_be_begun_is_named(run, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WorkspaceError, match=r"samples\.written\.jsonl: no space left"):
        run.artifact("samples").begin({})


def test_file_names_that_the_system_rejects_are_explained(samples):
    with pytest.raises(WorkspaceError, match="name too long"):
        samples.write_bytes("x" * 300, b"")


def test_a_run_directory_that_cannot_be_created_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match="file/run"), Run.open(tmp_path / "file/run"):
        pass


def test_a_run_directory_removed_while_in_use_is_not_recreated(tmp_path):
    with Run.open(tmp_path / "run") as run:
        samples, pairs = run.artifact("samples"), run.artifact("pairs")
        samples.begin({})
        run.path.rename(tmp_path / "elsewhere")
        for write in (lambda: pairs.begin({}), lambda: samples.write_bytes("a", b""), samples.commit):
            with pytest.raises(WorkspaceError, match="was removed or replaced"):
                write()
        assert not run.path.exists()


def test_errors_inside_an_open_run_are_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError), Run.open(tmp_path):
        (tmp_path / "nothing").read_text()


def test_writing_needs_an_open_run(tmp_path):
    with pytest.raises(WorkspaceError, match="reading only"):
        Run(tmp_path).artifact("samples").begin({})
    with Run.open(tmp_path) as run:
        pass
    with pytest.raises(WorkspaceError, match="reading only"):
        run.write_text("a.txt", "")


# One writer.

HOLD = """
import sys, time
from capo.store import Run
with Run.open(sys.argv[1]):
    print("open", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_rejected_and_the_lock_of_a_dead_one_released(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"open\n"
        with (
            pytest.raises(WorkspaceError, match=rf"in use by process {holder.pid} on \S+; wait"),
            Run.open(tmp_path),
        ):
            pass
        holder.kill()
    with Run.open(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert (tmp_path / ".lock").read_text() == ""


def test_a_recipe_with_comments_is_kept_until_its_content_changes(tmp_path):
    recipe = parse_recipe(fake_stages.VALUES)
    path = tmp_path / "recipe.yaml"
    with Run.open(tmp_path, recipe):
        assert load_recipe(path) == recipe
    commented = "# the good one\n" + yaml.safe_dump(fake_stages.VALUES)
    path.write_text(commented)
    with Run.open(tmp_path, recipe):
        assert path.read_text() == commented
    other = parse_recipe(fake_stages.VALUES | {"seed": 1})
    for text in (commented, "seed: [", "seed: x", ""):
        path.write_text(text)
        with Run.open(tmp_path, other):
            assert load_recipe(path) == other


def test_interrupted_writes_are_undone_at_open(tmp_path):
    with Run.open(tmp_path):
        pass
    (tmp_path / "samples/.capo-tmp-best").mkdir(parents=True)
    (tmp_path / "samples/.capo-tmp-best/a").write_text("")
    (tmp_path / "samples/.capo-tmp-x.parquet").write_text("")
    (tmp_path / "train/.capo-old-best").mkdir(parents=True)
    (tmp_path / "train/.capo-old-best/a").write_text("kept: not replaced yet")
    (tmp_path / "evaluate/.capo-old-best").mkdir(parents=True)
    (tmp_path / "evaluate/best").mkdir()
    with Run.open(tmp_path):
        pass
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")}
    kept = {"samples", "train", "train/best", "train/best/a", "evaluate", "evaluate/best"}
    assert left == kept | {".lock", ".capo"}


def test_an_append_that_a_crash_cut_off_anywhere_is_undone_at_open(tmp_path, monkeypatch):
    """Also if the file is one of another run too, by a hard link; that one never changes."""

    class Crash(BaseException):
        pass

    def crash(path):
        if b"2" in log.read_bytes():
            raise Crash

    with Run.open(tmp_path / "run") as run:
        run.artifact("train").begin({})
        run.artifact("train").write_json_lines("log.jsonl", [{"step": 1}])
    log, other = tmp_path / "run/train/log.jsonl", tmp_path / "other.jsonl"
    os.link(log, other)
    with Run.open(tmp_path / "run") as run, monkeypatch.context() as patch:
        patch.setattr(atomic, "_undo_append", lambda before: None)  # a killed process undoes nothing
        patch.setattr(atomic, "flush", crash)
        with pytest.raises(Crash):
            run.artifact("train").append_json_lines("log.jsonl", [{"step": 2}])
    old, new, left = other.read_bytes(), log.read_bytes(), tmp_path / "left"
    assert new == old + b'{"step": 2}\n'
    for length in range(len(old), len(new) + 1):
        shutil.rmtree(left, ignore_errors=True)
        shutil.copytree(tmp_path / "run", left)
        os.truncate(left / "train/log.jsonl", length)
        with Run.open(left) as run:
            assert run.artifact("train").files() == ["log.jsonl"]
            assert run.artifact("train").read_bytes("log.jsonl") == old
            run.artifact("train").append_json_lines("log.jsonl", [{"step": 2}])
            assert run.artifact("train").read_bytes("log.jsonl") == new


def test_a_committed_artifact_follows_its_manifest_and_loses_an_older_record_at_open(tmp_path, inputs):
    record = tmp_path / "manifests/scores/first.written.jsonl"
    with Run.open(tmp_path) as run:
        scores = run.artifact("scores/first")
        scores.begin(inputs)
        scores.write_bytes("shard", b"old")
        scores.write_bytes("shard", b"new")
        kept = record.read_bytes()
        scores.commit()
    record.write_bytes(kept)  # as a kill just after the manifest appeared leaves it
    (tmp_path / "scores/first/shard").write_bytes(b"old")
    with pytest.raises(WorkspaceError, match="digest"):
        Run(tmp_path).artifact("scores/first").verify()
    with Run.open(tmp_path) as run:
        run.artifact("samples").begin(inputs)
    assert not record.exists()
    assert (tmp_path / "manifests/samples.written.jsonl").exists()


def test_unused_failpoints_are_cheap():
    started = time.process_time()
    for _ in range(1000):
        failpoint()
    assert time.process_time() - started < 0.1
