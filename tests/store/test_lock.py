"""One writer at a time, of the directory that was locked."""

import shutil

import pytest

from capo.store import Run, WorkspaceError
from capo.store.lock import hold_lock, wait_for_lock


@pytest.mark.parametrize("lock", [hold_lock, wait_for_lock])
def test_a_link_in_place_of_a_lock_is_rejected_and_its_target_kept(tmp_path, lock):
    (tmp_path / "thesis.tex").write_text("text")
    (tmp_path / ".lock").symlink_to("thesis.tex")
    with pytest.raises(WorkspaceError, match="symbolic link"), lock(tmp_path / ".lock"):
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
