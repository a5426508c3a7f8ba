"""Child processes that need not import anything again.

A fork of a process with threads may wait forever for a lock that one of them held. Processes of pytest have
threads, so a test forks from within a process of its own.
"""

import importlib
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

from capo.store import atomic


def forking_process() -> ProcessPoolExecutor:
    """A new process, without threads, that calls functions of importable modules, which may fork it."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def fork(work: Callable[[], object], **environment: str) -> int:
    """Start a child process that does `work`; return its process id."""
    for thread in set(threading.enumerate()) - {threading.main_thread()}:
        thread.join(10)  # it belongs to a lock that was just released
    assert threading.active_count() == 1, "only a `forking_process` may fork"
    child = os.fork()
    if child:
        return child
    try:
        atomic._passed = 0
        os.environ.update(environment)
        work()
    except SystemExit as end:
        os._exit(int(end.code or 0))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def import_for(work: Callable[[], object], record: Path) -> None:
    """Do `work` in a child process, and import here what it imported, for later ones; `record` lists that."""

    def recorded() -> None:
        work()
        record.write_text("\n".join(sys.modules), encoding="utf-8")

    assert ended(fork(recorded)) == 0
    for name in record.read_text(encoding="utf-8").splitlines():
        if name not in sys.modules:
            with suppress(ImportError):
                importlib.import_module(name)


def ended(child: int) -> int:
    """Wait for a child process; return its exit code, or the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
