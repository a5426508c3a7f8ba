"""Shares of a run directory: processes that make shards next to each other, while none has it to itself.

Each holds a lock file of its own in `.shares/`. A process that wants the directory to itself takes its
lock, and then looks for shares; one that wants a share takes it, and then looks at the lock. So the two never
hold the directory at once. If both start at the same moment, both may be rejected.
"""

import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from capo.store.claim import SHARES
from capo.store.errors import WorkspaceError, explain_os_errors
from capo.store.lock import Lock, describe_holder, find_holder, hold_lock


@contextmanager
def hold_share(folder: Path, lock: Path) -> Iterator[Lock]:
    """Hold a share of `folder`; raises `WorkspaceError` if a process holds its `lock`."""
    name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.lock"
    path = folder / SHARES / name
    with explain_os_errors(folder):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with hold_lock(path) as share:
            if holder := find_holder(lock):
                raise WorkspaceError(
                    f"{folder} is in use by {describe_holder(holder)}, which makes all of it; wait for it to "
                    "finish, or stop it and rerun the same command"
                )
            yield share
    finally:
        path.unlink(missing_ok=True)


def reject_shares(folder: Path) -> None:
    """Raise `WorkspaceError` if processes hold shares of `folder`; remove those of dead ones."""
    holders = []
    for path in sorted((folder / SHARES).glob("*.lock")):
        if holder := find_holder(path):
            holders.append(describe_holder(holder))
        else:
            path.unlink(missing_ok=True)
    if holders:
        more = f" and {len(holders) - 3} more" if len(holders) > 3 else ""
        raise WorkspaceError(
            f"{folder} is in use by {len(holders)} commands with --shard ({', '.join(holders[:3])}{more}); "
            "wait for them to finish, and rerun the same command"
        )
