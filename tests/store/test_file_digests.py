"""Digests of large files are read once, until the file changes or the reader asks again."""

import hashlib
import os

import pytest

from capo.store import file_digests as module
from capo.store.file_digests import file_digests, files_read_again


@pytest.fixture
def reads(tmp_path, monkeypatch):
    """The paths that were read, in order; nothing counts as small."""
    monkeypatch.setenv("CAPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "SMALL", 0)
    monkeypatch.setattr(module, "_known", {})
    monkeypatch.setattr(module, "_small", {})
    read, digest = [], module._digest
    monkeypatch.setattr(module, "_digest", lambda path, size: read.append(path.name) or digest(path, size))
    return read


@pytest.fixture
def weights(tmp_path):
    return [written(tmp_path / name, name.encode()) for name in ("a", "b")]


def written(path, content, age=100):
    path.write_bytes(content)
    os.utime(path, ns=(0, path.stat().st_mtime_ns - age * 10**9))
    return path


def another_process(monkeypatch):
    monkeypatch.setattr(module, "_known", {})


def test_files_are_read_once_by_all_commands(weights, reads, monkeypatch):
    first = file_digests(weights, size=64)
    assert first == [hashlib.blake2b(path.read_bytes()).hexdigest() for path in weights]
    another_process(monkeypatch)
    assert file_digests(weights, size=64) == first
    assert sorted(reads) == ["a", "b"]
    assert file_digests(weights) == [
        hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() for path in weights
    ]


@pytest.mark.parametrize("change", ["time", "size", "inode"])
def test_a_changed_file_is_read_again_and_no_other(change, weights, reads):
    first, (path, _) = file_digests(weights), weights
    kept = path.stat().st_mtime_ns
    if change == "time":
        written(path, b"c", age=50)
    elif change == "size":
        path.write_bytes(b"cc")
        os.utime(path, ns=(0, kept))
    else:  # the same size and time under another inode
        other = path.with_name("other")
        other.write_bytes(b"c")
        os.utime(other, ns=(0, kept))
        other.replace(path)
    again = file_digests(weights)
    assert again[0] != first[0]
    assert again[1] == first[1]
    assert sorted(reads) == ["a", "a", "b"]


def test_a_file_that_may_still_change_is_not_kept(tmp_path, reads):
    path = written(tmp_path / "new", b"1", age=0)
    first = file_digests([path])
    path.write_bytes(b"2")  # perhaps within the resolution of the file system's clock
    assert file_digests([path]) != first


def test_files_are_read_again_on_request(weights, reads):
    digests, (path, _) = file_digests(weights), weights
    kept = path.stat()
    path.write_bytes(b"c")
    os.utime(path, ns=(0, kept.st_mtime_ns))  # a change that leaves no trace
    assert file_digests(weights) == digests
    with files_read_again():
        assert file_digests(weights) != digests
    assert file_digests(weights) != digests


@pytest.mark.parametrize("broken", ["cache", "cache/digests.sqlite"])
def test_without_a_usable_cache_one_process_reads_once(broken, weights, reads, tmp_path):
    (tmp_path / broken).parent.mkdir(exist_ok=True)
    (tmp_path / broken).write_text("neither a folder nor a database")
    assert file_digests(weights) == file_digests(weights)
    assert sorted(reads) == ["a", "b"]


def test_small_files_are_read_once_by_a_process_until_they_change(weights, reads, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SMALL", 100)
    monkeypatch.setattr(module, "SETTLED_SECONDS", -1)
    first, (path, _) = file_digests(weights), weights
    assert file_digests(weights) == first
    kept = path.stat()
    path.write_bytes(b"c")
    os.utime(path, ns=(0, kept.st_mtime_ns))
    assert file_digests(weights)[0] != first[0]
    with files_read_again():
        file_digests(weights)
    assert reads == ["a", "b", "a", "a", "b"]
    assert not (tmp_path / "cache").exists()
