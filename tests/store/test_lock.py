"""One writer at a time, of the directory that was locked."""

import errno
import json
import os
import shutil
import socket
import threading

import pytest

from capo.store import Run, WorkspaceError, lock
from capo.store.lock import hold_lock, wait_for_lock


@pytest.mark.parametrize("locked", [hold_lock, wait_for_lock])
def test_a_link_in_place_of_a_lock_is_rejected_and_its_target_kept(tmp_path, locked):
    (tmp_path / "thesis.tex").write_text("text")
    (tmp_path / ".lock").symlink_to("thesis.tex")
    with pytest.raises(WorkspaceError, match="symbolic link"), locked(tmp_path / ".lock"):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "text"


def write(artifact):
    artifact.write_bytes("shard-1", b"first")


def replace(artifact):
    with artifact.write_directory("best") as folder:
        (folder / "weights").write_bytes(b"")


@pytest.mark.parametrize("change", [write, replace, lambda a: a.remove("shard-0"), lambda a: a.commit()])
def test_a_writer_stops_once_its_directory_was_replaced(tmp_path, change):
    """Another run was started in a new directory of the same name."""
    with Run.open(tmp_path / "run") as first:
        samples = first.artifact("samples")
        samples.begin({"seed": 0})
        shutil.rmtree(tmp_path / "run")
        with Run.open(tmp_path / "run") as second:
            second.artifact("samples").begin({"seed": 0})
            second.artifact("samples").write_bytes("shard-0", b"second")
            with pytest.raises(WorkspaceError, match="removed or replaced"):
                change(samples)
            second.artifact("samples").commit()
            assert second.artifact("samples").files() == ["shard-0"]


def test_a_directory_replaced_during_a_write_gets_no_file(tmp_path):
    with Run.open(tmp_path / "run") as first:
        samples = first.artifact("samples")
        samples.begin({})
        writing = samples.write_directory("best")
        (writing.__enter__() / "weights").write_bytes(b"")
        (tmp_path / "run/.lock").rename(tmp_path / "run/.other-lock")
        with pytest.raises(WorkspaceError, match="removed or replaced"):
            writing.__exit__(None, None, None)
        assert not samples.has("best")


def test_a_directory_replaced_during_a_write_of_a_file_gets_no_file(tmp_path):
    with Run.open(tmp_path / "run") as run:
        writing = run.replacing(run.path / "recipe.yaml")
        writing.__enter__().write_bytes(b"text")
        (tmp_path / "run/.lock").rename(tmp_path / "run/.other-lock")
        with pytest.raises(WorkspaceError, match="removed or replaced"):
            writing.__exit__(None, None, None)
        assert not (run.path / "recipe.yaml").exists()


# Without flock, and across hosts.


@pytest.fixture
def no_flock(monkeypatch):
    """A file system without `flock`, and short times."""

    def unsupported(handle, kind):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    for name, seconds in (("INTERVAL", 0.02), ("LIMIT", 0.4), ("SETTLE", 0.05)):
        monkeypatch.setattr(lock, name, seconds)


def elsewhere(monkeypatch):
    """Continue on another host."""
    monkeypatch.setattr(lock.socket, "gethostname", lambda: "elsewhere")


def test_a_beating_holder_on_another_host_is_named(tmp_path, no_flock, monkeypatch):
    with Run.open(tmp_path):
        here = socket.gethostname()
        elsewhere(monkeypatch)
        with pytest.raises(WorkspaceError, match=f"process {os.getpid()} on {here}"), Run.open(tmp_path):
            pass


def test_a_silent_holder_on_another_host_is_taken_over_and_notices(tmp_path, no_flock, monkeypatch):
    monkeypatch.setattr(lock, "INTERVAL", 600)
    with Run.open(tmp_path) as first:
        elsewhere(monkeypatch)
        with Run.open(tmp_path) as second:
            second.write_text("a.txt", "")
            with pytest.raises(WorkspaceError, match=r"taken over by process \d+ on elsewhere"):
                first.write_text("a.txt", "")
        assert (tmp_path / ".lock").read_text() == ""


@pytest.mark.parametrize("change", [{"pid": 2**22 + 1}, {"started": 1.0}], ids=["no process", "pid reused"])
def test_a_dead_holder_on_this_host_is_taken_over_at_once(tmp_path, no_flock, monkeypatch, change):
    with Run.open(tmp_path):
        held = json.loads((tmp_path / ".lock").read_text())
        with pytest.raises(WorkspaceError, match="in use by process"), Run.open(tmp_path):
            pass
    monkeypatch.setattr(lock, "LIMIT", 600)
    (tmp_path / ".lock").write_text(json.dumps(held | change))
    with Run.open(tmp_path):
        pass


def test_a_worker_stops_once_the_main_process_ended(tmp_path):
    with Run.open(tmp_path) as run:
        run.artifact("samples").begin({})
        samples = run.access().open("rank-1").artifact("samples")
        samples.write_bytes("shard-0", b"one")
        run.artifact("samples").write_bytes("shard-1", b"two")
        assert run.artifact("samples").files() == samples.files() == ["shard-0", "shard-1"]
        run.artifact("samples").commit()
        assert not (tmp_path / "manifests/samples.written").exists()
        run.artifact("train").begin({})
        train = run.access().open("rank-1").artifact("train")
    with pytest.raises(WorkspaceError, match="no longer held"):
        train.write_bytes("weights", b"")


def test_files_of_other_processes_may_appear_late(tmp_path):
    with Run.open(tmp_path) as run:
        samples = run.artifact("samples")
        samples.begin({})
        with pytest.raises(WorkspaceError, match=r"shard-0: another process reported"):
            samples.wait_until_visible(["shard-0"], limit=0.05)
        worker = run.access().open("rank-1").artifact("samples")
        late = threading.Timer(0.1, worker.write_bytes, ["shard-0", b"one"])
        late.start()
        samples.wait_until_visible(["shard-0"], limit=5)
        late.join()
        assert samples.files() == ["shard-0"]
