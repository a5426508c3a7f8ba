"""Child processes that end together with everything they started."""

import os
import signal
import subprocess
from contextlib import suppress


def kill_group(process: "subprocess.Popen[str]") -> None:
    """Kill a session leader and its children, such as those of a shell or `conda run`."""
    with suppress(ProcessLookupError, PermissionError):  # macOS: PermissionError if only a dead one is left
        os.killpg(process.pid, signal.SIGKILL)


def end_group(process: "subprocess.Popen[str]", seconds: float) -> None:
    """Give a process `seconds` to end by itself, then kill it and the processes it left behind."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    kill_group(process)
    process.wait()
