"""Run a program that ends with capo, even if capo is killed: `python supervise.py LIFELINE COMMAND…`.

LIFELINE is the file descriptor of a pipe whose other end only capo holds. When it closes, the program is
killed after a grace period, in which it can exit by itself, since its input has ended too. What it started is
killed with it: its process group and, on Linux, all descendants, in whatever group or session they are.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

GRACE_SECONDS = 2.0


PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """Run the command in this process group, and exit as it does."""
    lifeline, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # adopts descendants whose parent ends
    child = subprocess.Popen(command)
    # Held by the child alone, so that capo sees when it closes them.
    os.close(0)
    os.close(1)
    threading.Thread(target=_watch, args=(lifeline,), daemon=True).start()
    code = _wait(child.pid)
    kill_descendants(os.getpid())
    if select.select([lifeline], [], [], 0)[0]:
        os.killpg(0, signal.SIGKILL)  # capo is gone: nothing else ends what the child left behind
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def kill_descendants(process: int) -> None:
    """Kill all descendants of a process, where the system lists them in `/proc`; repeated for new ones."""
    for _ in range(10):
        found = _descendants(process)
        if not found:
            return
        for each in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(each, signal.SIGKILL)


def _descendants(process: int) -> list[int]:
    """Return the living descendants of a process."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            state, parent = status.read_text(errors="replace").rpartition(")")[2].split()[:2]
            children.setdefault(int(parent), []).append(int(status.parent.name) if state != "Z" else 0)
    found, waiting = [], [process]
    while waiting:
        waiting += (next_ones := [each for each in children.pop(waiting.pop(), []) if each])
        found += next_ones
    return found


def _wait(child: int) -> int:
    """Wait for the child, and meanwhile for adopted ones; return its exit code, negative for a signal."""
    while True:
        ended, status = os.wait()
        if ended == child:
            return os.waitstatus_to_exitcode(status)


def _watch(lifeline: int) -> None:
    os.read(lifeline, 1)
    time.sleep(GRACE_SECONDS)  # this process ends with the child
    kill_descendants(os.getpid())
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
