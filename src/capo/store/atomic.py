"""Writing that survives a crash: files and folders appear whole or not at all.

Everything is written under a temporary name in the same folder, flushed to disk, and renamed; only `append`
changes a file in place, and can be undone. `failpoint` marks every instant where a crash would matter, so
that a test can kill the process at each of them.
"""

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from capo.store.errors import explain_os_errors

TEMPORARY, REPLACED, LENGTH = ".capo-tmp-", ".capo-old-", ".capo-len-"
"""How the names of files and folders begin while they are written or replaced, and of files with the length
that another file had before it was appended to; reserved for capo."""

TEMPORARY_0_1 = (".tmp-", ".old-")
"""The same in version 0.1. A user may have such files too, so they are never removed."""

BeforeRename = Callable[[Path], None]

_passed = 0
_passing = threading.Lock()


def failpoint() -> None:
    """Mark an instant where a crash matters; the calls of a process are numbered from 1.

    `CAPO_FAILPOINT=k` kills the process at the k-th call. `CAPO_FAILPOINT_COUNT=path` writes the number of
    calls so far to a file.
    """
    global _passed
    with _passing:
        _passed += 1
        if count := os.environ.get("CAPO_FAILPOINT_COUNT"):
            Path(count).write_text(str(_passed))
        if os.environ.get("CAPO_FAILPOINT") == str(_passed):
            os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def write_file(
    path: Path, before_rename: BeforeRename = lambda temporary: None, writer: str = ""
) -> Iterator[Path]:
    """Yield a temporary path; the file written there replaces `path` when the context ends without error.

    `before_rename` is called with the temporary path once the file is complete. `writer` keeps the temporary
    files apart of processes that may write the same file.
    """
    temporary = path.with_name(TEMPORARY + writer + path.name)
    with explain_os_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            failpoint()
            yield temporary
            _canonical_safetensors(temporary)
            failpoint()
            flush(temporary)
            before_rename(temporary)
            failpoint()
            os.replace(temporary, path)
            failpoint()
            flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def write_folder(path: Path, before_rename: BeforeRename = lambda temporary: None) -> Iterator[Path]:
    """Yield an empty temporary folder that replaces `path`, whole, when the context ends without error.

    `before_rename` is called with the temporary path once the folder is complete. What a kill left of an
    earlier replacement of `path` is undone first.
    """
    temporary, replaced = path.with_name(TEMPORARY + path.name), path.with_name(REPLACED + path.name)
    with explain_os_errors(path):
        for leftover in (replaced, temporary):
            if leftover.exists():
                _undo(leftover)
        try:
            temporary.mkdir(parents=True)
            failpoint()
            yield temporary
            for content in sorted(temporary.rglob("*")):
                _canonical_safetensors(content)
                flush(content)
            flush(temporary)
            before_rename(temporary)
            failpoint()
            if path.exists():
                os.replace(path, replaced)
                failpoint()
            os.replace(temporary, path)
            failpoint()
            flush(path.parent)
            shutil.rmtree(replaced, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def create_folder(path: Path) -> Iterator[Path]:
    """Write a folder as `write_folder` does, but raise `ValueError` rather than replace an existing one."""
    if path.exists():
        raise ValueError(f"{path} exists already; name another folder with --to, or remove it")
    with write_folder(path) as temporary:
        yield temporary


def append(path: Path, data: bytes) -> None:
    """Add bytes to the end of a file: all of them, or after a crash and `remove_leftovers` none."""
    if path.stat().st_nlink > 1:  # also a file of another run, which must not change
        with write_file(path) as own:
            shutil.copyfile(path, own)
    before = path.with_name(LENGTH + path.name)
    with write_file(before) as temporary:
        temporary.write_text(str(path.stat().st_size))
    with explain_os_errors(path):
        try:
            with path.open("ab") as file:
                for part in (data[: len(data) // 2], data[len(data) // 2 :]):
                    file.write(part)
                    file.flush()
                    failpoint()
            flush(path)
        except BaseException:
            _undo_append(before)
            raise
        before.unlink()
        failpoint()
        flush(path.parent)


def link(source: Path, path: Path) -> None:
    """Make the file `source` available at `path` too: as a hard link where possible, else as a copy."""
    temporary = path.with_name(TEMPORARY + path.name)
    with explain_os_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            failpoint()
            try:
                os.link(source, temporary)
            except OSError:  # another file system, or one without links
                shutil.copyfile(source, temporary)
            flush(temporary)
            failpoint()
            os.replace(temporary, path)
            failpoint()
            flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file or a folder; a folder first disappears as a whole, by a rename."""
    failpoint()
    with explain_os_errors(path):
        if path.is_dir():
            temporary = path.with_name(TEMPORARY + path.name)
            os.replace(path, temporary)
            shutil.rmtree(temporary)
        else:
            path.unlink(missing_ok=True)


def move(source: Path, path: Path) -> None:
    """Move a file or a folder to `path`, which must not exist, on the same file system."""
    with explain_os_errors(source):
        path.parent.mkdir(parents=True, exist_ok=True)
        failpoint()
        source.rename(path)
        failpoint()
        flush(path.parent)
        flush(source.parent)


def remove_files(paths: Sequence[Path]) -> None:
    """Remove files one by one, for callers that can tolerate a crash halfway."""
    for index, path in enumerate(paths):
        if index < 2:  # before the first, and halfway
            failpoint()
        with explain_os_errors(path):
            path.unlink(missing_ok=True)


def remove_leftovers(root: Path) -> None:
    """Undo every write under `root` that a crash interrupted."""
    with explain_os_errors(root):
        for folder, folders, files in os.walk(root):
            for name in filter(is_temporary, (*folders, *files)):
                _undo(Path(folder, name))
            folders[:] = [n for n in folders if not is_temporary(n)]


def poke(folder: Path) -> None:
    """Change a folder without an effect, so that this machine does not use what it remembers of it."""
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{TEMPORARY}look"
        temporary.touch()
        temporary.unlink(missing_ok=True)


def is_temporary(name: str) -> bool:
    """Report whether a file or folder of this name is being written, or was when a crash came."""
    return name.startswith((TEMPORARY, REPLACED, LENGTH))


def flush(path: Path) -> None:
    """Wait until a file or folder is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _undo(leftover: Path) -> None:
    """Undo the write that left this file or folder with a temporary name."""
    place = leftover.with_name(leftover.name.removeprefix(REPLACED))
    if leftover.name.startswith(LENGTH):
        _undo_append(leftover)
    elif leftover.name.startswith(REPLACED) and not place.exists():
        os.replace(leftover, place)
    elif leftover.is_dir():
        shutil.rmtree(leftover)
    else:
        leftover.unlink()


def _undo_append(before: Path) -> None:
    """Give a file the length it had before an append, which is what the file `before` contains."""
    path = before.with_name(before.name.removeprefix(LENGTH))
    if path.exists():
        os.truncate(path, min(path.stat().st_size, int(before.read_text())))
        flush(path)
    before.unlink()


def _canonical_safetensors(path: Path) -> None:
    """Make equal tensors equal files: sort the metadata, which safetensors writes in an arbitrary order.

    Also give the file the access rights of its folder, since safetensors makes it private.
    """
    if path.suffix != ".safetensors":
        return
    path.chmod(path.parent.stat().st_mode & 0o666)
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        if list(metadata := header.get("__metadata__", {})) != sorted(metadata):
            header["__metadata__"] = dict(sorted(metadata.items()))
            text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
            assert len(text) <= size, f"{path}: header grew from {size} to {len(text)} bytes"
            file.seek(8)
            file.write(text.ljust(size))
