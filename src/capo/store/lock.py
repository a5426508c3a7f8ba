"""Locks on files: only one process at a time writes what a lock protects.

A lock is a file that names its holder: process, host, and a number that the holder increases every few
seconds. The file is never removed. Where the file system supports `flock`, the system itself keeps others out
and releases the lock when the holder dies. Elsewhere, the name decides: a holder on this host is dead if its
process is, and one on another host if its number has stood still for a minute.
"""

import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from capo.engine.progress import say
from capo.store.errors import WorkspaceError, explain_os_errors

INTERVAL = 10.0
"""Seconds between two increases of the holder's number."""
LIMIT = 60.0
"""Seconds after which a holder on another host whose number stands still counts as dead."""
SETTLE = 2.0
"""Seconds after which, without `flock`, the last of several processes that took a lock at once has it."""
UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""Errors of file systems without `flock`."""

Holder = dict[str, Any]
"""What a lock file says: `id`, `pid`, `host`, `started` (of the process), and `beat`; empty if it is free."""


class Claim(Protocol):
    """The right to write what a lock protects."""

    @property
    def path(self) -> Path:
        """The lock file."""
        ...

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
        """Raise `WorkspaceError` unless the file at `path` is still the one that was locked, by this process.

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
        if (now := read_holder(self.path)).get("id") != self.holder:
            raise WorkspaceError(
                f"{self.path.parent} was taken over by {describe_holder(now)}, since this process did not "
                f"respond for {LIMIT:.0f} s; wait for it to finish, and rerun the same command"
            )


@dataclass(frozen=True)
class PartOfLock:
    """The part of a worker process in the lock that the main process of its command holds."""

    path: Path
    holder: str

    def check(self) -> None:
        """Raise `WorkspaceError` unless the main process still holds the lock."""
        if read_holder(self.path).get("id") != self.holder:
            raise WorkspaceError(
                f"{self.path.parent} is no longer held by the main process of this command, which ended, or "
                "it was removed or replaced; rerun the same command"
            )


@contextmanager
def hold_lock(path: Path, *, instead: str = "choose another run directory with --run") -> Iterator[Lock]:
    """Hold the lock file `path`, or raise `WorkspaceError` when another process holds it.

    The error names the holder, and `instead` as the alternative to waiting. It comes at once, or after up to
    a minute if the holder is on another host and cannot be asked through `flock`.
    """
    with explain_os_errors(path):
        handle = _open(path)
    try:
        with explain_os_errors(path):
            lock = _acquire(path, handle, instead)
        stopped = threading.Event()
        threading.Thread(target=_beat, args=(lock, stopped), daemon=True).start()
        try:
            yield lock
        finally:
            stopped.set()
            if read_holder(path).get("id") in (lock.holder, None):
                os.ftruncate(handle, 0)
    finally:
        os.close(handle)


@contextmanager
def wait_for_lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, after waiting for the processes that hold it or wait for it.

    Needs a file system with `flock`.
    """
    with explain_os_errors(path):
        handle = _open(path)
    try:
        with explain_os_errors(path):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def find_holder(path: Path) -> Holder | None:
    """Return who holds the lock file `path`, or None if it is free, by the rules of `hold_lock`."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        with explain_os_errors(path):
            flocked = _flock(handle, fcntl.LOCK_SH)
            holder = read_holder(path)
        return holder if flocked is False or (holder and _alive(path, holder, flocked)) else None
    finally:
        os.close(handle)


def read_holder(path: Path) -> Holder:
    """Return what a lock file says about its holder."""
    with suppress(OSError, ValueError):
        holder = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(holder, dict):
            return holder
    return {}


def describe_holder(holder: Holder) -> str:
    """Name a holder for a message."""
    if {"pid", "host"} <= holder.keys():
        return f"process {holder['pid']} on {holder['host']}"
    return "another process"


def _acquire(path: Path, handle: int, instead: str) -> Lock:
    flocked = _flock(handle, fcntl.LOCK_EX)
    holder = read_holder(path)
    if flocked is False or (holder and _alive(path, holder, flocked)):
        raise _in_use(path, holder, instead)
    lock = Lock(path, handle, uuid.uuid4().hex)
    os.ftruncate(handle, 0)
    _write(lock, 0)
    if flocked is None:
        time.sleep(SETTLE)
        if (last := read_holder(path)).get("id") != lock.holder:
            raise _in_use(path, last, instead)
    lock.check()
    return lock


def _flock(handle: int, kind: int) -> bool | None:
    """Try to `flock`: False if another process has it, None if the file system does not support it."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return None
    return True


def _alive(path: Path, holder: Holder, flocked: bool | None) -> bool:
    """Judge whether the process that a lock file names is alive."""
    if holder.get("host") == socket.gethostname():
        # It would have kept its `flock`, which works within a host if it works at all.
        return flocked is None and _started(holder.get("pid", 0)) == holder.get("started")
    say(f"{path.parent} names {describe_holder(holder)} as its user; checking for up to {LIMIT:.0f} s")
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        time.sleep(min(1.0, LIMIT / 10))
        if (now := read_holder(path)) != holder:
            return bool(now)
    return False


def _started(pid: int) -> float | None:
    """Return when a process of this host was started; None if there is none."""
    import psutil

    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def _write(lock: Lock, beat: int) -> None:
    """Write the holder, always in as many bytes, so that no reader sees a part of it."""
    holder = {"id": lock.holder, "pid": os.getpid(), "host": socket.gethostname()}
    holder |= {"started": _started(os.getpid()), "beat": f"{beat:012}"}
    os.pwrite(lock.handle, json.dumps(holder).encode(), 0)


def _beat(lock: Lock, stopped: threading.Event) -> None:
    """Increase the holder's number until stopped, or until another process has taken the lock."""
    beat = 0
    while not stopped.wait(INTERVAL):
        beat += 1
        with suppress(OSError):  # the next write of a file reports what is wrong
            if read_holder(lock.path).get("id") != lock.holder:
                return
            _write(lock, beat)


def _in_use(path: Path, holder: Holder, instead: str) -> WorkspaceError:
    return WorkspaceError(
        f"{path.parent} is in use by {describe_holder(holder)}; wait for it to finish, or {instead}"
    )


def _open(path: Path) -> int:
    """Open or create a lock file, without touching what a link at its place points to."""
    if path.is_symlink():
        raise WorkspaceError(f"{path} is a symbolic link, which cannot serve as a lock; remove it")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
