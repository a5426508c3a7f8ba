"""Child processes that end together with everything they started."""

import os
import signal
import subprocess
from contextlib import suppress
from typing import Any

from capo.rewards.transports.programs.supervise import kill_descendants


def kill_group(process: "subprocess.Popen[Any]") -> None:
    """Kill a session leader and its children, such as those of a shell or `conda run`.

    On Linux also the descendants that have left its session: first, while they have this ancestor.
    """
    if process.poll() is None:
        kill_descendants(process.pid)
    with suppress(ProcessLookupError, PermissionError):  # macOS: PermissionError if only a dead one is left
        os.killpg(process.pid, signal.SIGKILL)


def end_group(process: "subprocess.Popen[Any]", seconds: float) -> None:
    """Give a process `seconds` to end by itself, then kill it and the processes it left behind."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    kill_group(process)
    process.wait()
