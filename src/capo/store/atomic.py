"""Writing that survives a crash: files and folders appear whole or not at all.

Everything is written under a temporary name beside its place, flushed, and renamed. `failpoint`
marks every instant where a crash would matter, so that a test can die at each of them.
"""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from capo.store.errors import explain_os_errors

TEMPORARY = ".tmp-"
REPLACED = ".old-"

_passed = 0


def failpoint() -> None:
    """A place where a crash matters, numbered by the order of the calls, from 1.

    `CAPO_FAILPOINT=k` kills the process at the k-th; `CAPO_FAILPOINT_COUNT=path` keeps the number
    of those passed in a file.
    """
    global _passed
    _passed += 1
    if count := os.environ.get("CAPO_FAILPOINT_COUNT"):
        Path(count).write_text(str(_passed))
    if os.environ.get("CAPO_FAILPOINT") == str(_passed):
        os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def write_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; what is written there takes the place of `path` at the end."""
    temporary = path.with_name(TEMPORARY + path.name)
    with explain_os_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            failpoint()
            yield temporary
            _canonical_safetensors(temporary)
            failpoint()
            _flush(temporary)
            failpoint()
            os.replace(temporary, path)
            failpoint()
            _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def write_folder(path: Path) -> Iterator[Path]:
    """An empty temporary folder beside `path` that takes its place, whole, at the end."""
    temporary, replaced = path.with_name(TEMPORARY + path.name), path.with_name(REPLACED + path.name)
    with explain_os_errors(path):
        try:
            temporary.mkdir(parents=True)
            failpoint()
            yield temporary
            for content in sorted(temporary.rglob("*")):
                _canonical_safetensors(content)
                _flush(content)
            _flush(temporary)
            failpoint()
            if path.exists():
                os.replace(path, replaced)
                failpoint()
            os.replace(temporary, path)
            failpoint()
            _flush(path.parent)
            shutil.rmtree(replaced, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def create_folder(path: Path) -> Iterator[Path]:
    """As `write_folder`, for what somebody asked for by name: nothing that is there is replaced."""
    if path.exists():
        raise ValueError(f"{path} is there already; name another folder with --to, or remove it")
    # What a killed command left; a folder in the making has no other use.
    shutil.rmtree(path.with_name(TEMPORARY + path.name), ignore_errors=True)
    with write_folder(path) as temporary:
        yield temporary


def link(source: Path, path: Path) -> None:
    """Put the file `source` at `path` too: one file under two names where that can be, else a copy."""
    temporary = path.with_name(TEMPORARY + path.name)
    with explain_os_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            failpoint()
            try:
                os.link(source, temporary)
            except OSError:  # another file system, or one without links
                shutil.copyfile(source, temporary)
            _flush(temporary)
            failpoint()
            os.replace(temporary, path)
            failpoint()
            _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file or a folder; a folder disappears at once, then its contents."""
    failpoint()
    with explain_os_errors(path):
        if path.is_dir():
            temporary = path.with_name(TEMPORARY + path.name)
            os.replace(path, temporary)
            shutil.rmtree(temporary)
        else:
            path.unlink(missing_ok=True)


def remove_leftovers(root: Path) -> None:
    """Undo what a crash left half-done under `root`."""
    with explain_os_errors(root):
        for folder, folders, files in os.walk(root):
            for name in [n for n in (*folders, *files) if n.startswith((TEMPORARY, REPLACED))]:
                path = Path(folder, name)
                place = path.with_name(name.removeprefix(REPLACED))
                if name.startswith(REPLACED) and not place.exists():
                    os.replace(path, place)
                elif path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            folders[:] = [n for n in folders if not n.startswith((TEMPORARY, REPLACED))]


def is_temporary(path: Path) -> bool:
    """Whether `path` is, or is inside, something that a crash left half-done."""
    return any(part.startswith((TEMPORARY, REPLACED)) for part in path.parts)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _canonical_safetensors(path: Path) -> None:
    """Undo two habits of the writer of safetensors: metadata in any order, and no access for others."""
    if path.suffix != ".safetensors":
        return
    path.chmod(path.parent.stat().st_mode & 0o666)
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        if len(metadata := header.get("__metadata__", {})) > 1:
            header["__metadata__"] = dict(sorted(metadata.items()))
            text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
            assert len(text) <= size, f"{path}: header grew from {size} to {len(text)} bytes"
            file.seek(8)
            file.write(text.ljust(size))
