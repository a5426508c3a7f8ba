"""Errors of the run directory, each with the path and what to do."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class WorkspaceError(RuntimeError):
    """A run directory that cannot be used as asked; the message names the path and the fix."""


class LeftToMain(WorkspaceError):
    """An attempt to do what only the process does that has the run directory to itself, such as to commit."""


@contextmanager
def explain_os_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into `WorkspaceError`s that say what to do."""
    try:
        yield
    except OSError as error:
        raise WorkspaceError(_explain(path, error)) from error
    except Exception as error:
        # safetensors and pyarrow report a full disk in error types of their own, with the system's text.
        if os.strerror(errno.ENOSPC) in str(error) and not isinstance(error, WorkspaceError):
            raise WorkspaceError(_explain(path, OSError(errno.ENOSPC, ""))) from error
        raise


@contextmanager
def explain_damage(path: Path) -> Iterator[None]:
    """Turn the errors of reading `path` into `WorkspaceError`s: it is damaged, unless the system refused."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise WorkspaceError(_explain(path, error)) from error
        # Each library raises errors of its own for a file that it cannot parse.
        raise damaged(path, str(error)) from error


def damaged(path: Path, why: str) -> WorkspaceError:
    """The error to raise for a file with other contents than were written."""
    return WorkspaceError(f"{path} is damaged ({why}); remove it and rerun the same command to remake it")


def _explain(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        existing = next(p for p in (path, *path.absolute().parents) if p.exists())
        free = shutil.disk_usage(existing).free
        return (
            f"{path}: no space left ({free:,} bytes free); no half-written file is kept: "
            "free some space and rerun the same command"
        )
    if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP):
        return f"{path}: this file system does not support locks; choose a directory on another one"
    if error.errno == errno.ENOENT:
        return f"{error.filename or path} does not exist; was the directory moved or removed?"
    return f"{path}: {error.strerror or error}"
