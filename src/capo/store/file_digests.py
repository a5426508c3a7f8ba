"""Digests of files, cached across commands, so that hundreds of gigabytes are read once.

A file is read again if its path, inode, size or modification time is new.
"""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from capo.store.cached_texts import CachedTexts

KEPT = CachedTexts("digests.sqlite")
SMALL = 16 << 20
"""Files that together have fewer bytes are read once by each process, which is as fast as looking them up."""
SETTLED_SECONDS = 2.0
"""A file modified more recently may be modified again without a new modification time."""

_known: dict[str, str] = {}
"""What this process has read or looked up, in case the cache cannot be written."""
_small: dict[tuple[int, ...], str] = {}
"""What this process has read of small files."""
_trusted: ContextVar[bool] = ContextVar("trusted", default=True)


@contextmanager
def files_read_again() -> Iterator[None]:
    """Within it, read all files again whatever the cache says, and correct the cache."""
    token = _trusted.set(False)
    try:
        yield
    finally:
        _trusted.reset(token)


def file_digests(paths: Sequence[Path], size: int = 16) -> list[str]:
    """Return the digest (blake2b of `size` bytes, hexadecimal) of each file's contents."""
    statuses = [path.stat() for path in paths]
    if sum(status.st_size for status in statuses) < SMALL:
        return [_small_digest(path, status, size) for path, status in zip(paths, statuses, strict=True)]
    keys = [
        f"{size}\0{path.resolve()}\0{status.st_ino}\0{status.st_size}\0{status.st_mtime_ns}"
        for path, status in zip(paths, statuses, strict=True)
    ]
    known = _look_up(keys) if _trusted.get() else {}
    unknown = {key: path for key, path in zip(keys, paths, strict=True) if key not in known}
    latest = time.time() - SETTLED_SECONDS
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
        digests = pool.map(lambda path: _digest(path, size), unknown.values())
        fresh = dict(zip(unknown, digests, strict=True))
    times = {key: status.st_mtime for key, status in zip(keys, statuses, strict=True)}
    _store({key: digest for key, digest in fresh.items() if times[key] < latest})
    known |= fresh
    return [known[key] for key in keys]


def _small_digest(path: Path, status: os.stat_result, size: int) -> str:
    """Digest a file unless this process has; a change of its content changes `st_ctime`."""
    key = (size, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if _trusted.get() and key in _small:
        return _small[key]
    digest = _digest(path, size)
    if max(status.st_mtime, status.st_ctime) < time.time() - SETTLED_SECONDS:
        _small[key] = digest
    return digest


def _digest(path: Path, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=size)).hexdigest()


def _look_up(keys: Sequence[str]) -> dict[str, str]:
    _known.update(KEPT.find(key for key in keys if key not in _known))
    return {key: _known[key] for key in keys if key in _known}


def _store(fresh: dict[str, str]) -> None:
    _known.update(fresh)
    KEPT.keep(fresh)
