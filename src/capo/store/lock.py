"""Locks on files: only one process at a time writes what a lock protects.

Locks are `flock`s on a file that is never removed. The system releases a lock when its process dies, so a
crash leaves nothing to clean up. The file names the holder, for the error messages of other processes.
"""

import fcntl
import json
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from capo.store.errors import WorkspaceError, explain_os_errors


class Claim(Protocol):
    """The right to write what a lock protects."""

    @property
    def holder(self) -> str:
        """Identifies the hold, on every machine and for all time."""
        ...

    def check(self) -> None:
        """Raise `WorkspaceError` once the right is gone."""
        ...


@dataclass(frozen=True)
class Lock:
    """A lock that this process holds on the file at `path`."""

    path: Path
    handle: int
    holder: str

    def check(self) -> None:
        """Raise `WorkspaceError` unless the file at `path` is still the one that was locked.

        After the directory was removed, another process may have created it again and locked its new file.
        """
        held = os.fstat(self.handle)
        try:
            current = self.path.lstat()
        except FileNotFoundError:
            current = None
        if current is None or not os.path.samestat(held, current):
            raise WorkspaceError(
                f"{self.path.parent} was removed or replaced while this process was writing to it; "
                "make sure that only one process uses it, and rerun the same command"
            )


@dataclass(frozen=True)
class SharedLock:
    """The share of another process in a lock that the main process of a launch holds."""

    path: Path
    holder: str

    def check(self) -> None:
        """Raise `WorkspaceError` unless the main process still holds the lock."""
        if _read(self.path).get("id") != self.holder:
            raise WorkspaceError(
                f"{self.path.parent} is no longer held by the main process of this command, which ended, or "
                "the directory was replaced; rerun the same command"
            )


@contextmanager
def hold_lock(path: Path, *, instead: str = "choose another run directory with --run") -> Iterator[Lock]:
    """Hold the lock file `path`, or raise `WorkspaceError` at once when another process holds it.

    The error names the holder, and `instead` as the alternative to waiting.
    """
    with explain_os_errors(path):
        handle = _open(path)
    try:
        with explain_os_errors(path):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _holder(path)
                raise WorkspaceError(
                    f"{path.parent} is in use by {holder}; wait for it to finish, or {instead}"
                ) from None
            lock = Lock(path, handle, uuid.uuid4().hex)
            lock.check()
            content = {"pid": os.getpid(), "host": socket.gethostname(), "id": lock.holder}
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(content).encode(), 0)
        try:
            yield lock
        finally:
            os.ftruncate(handle, 0)
    finally:
        os.close(handle)


@contextmanager
def wait_for_lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, after waiting for the processes that hold it or wait for it."""
    with explain_os_errors(path):
        handle = _open(path)
    try:
        with explain_os_errors(path):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _open(path: Path) -> int:
    """Open or create a lock file, without touching what a link at its place points to."""
    if path.is_symlink():
        raise WorkspaceError(f"{path} is a symbolic link, which cannot serve as a lock; remove it")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def _holder(path: Path) -> str:
    content = _read(path)
    if {"pid", "host"} <= content.keys():
        return f"process {content['pid']} on {content['host']}"
    return "another process"


def _read(path: Path) -> dict[str, Any]:
    """Return what the lock file says about its holder; empty if it says nothing."""
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}
