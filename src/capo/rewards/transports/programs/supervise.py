"""Run a program that ends with capo, even if capo is killed: `python supervise.py LIFELINE COMMAND…`.

LIFELINE is the file descriptor of a pipe whose other end only capo holds. When it closes, the process group
is killed after a grace period, in which the program can exit by itself, since its input has ended too.
"""

import os
import select
import signal
import subprocess
import sys
import threading

GRACE_SECONDS = 2.0


def main() -> None:
    """Run the command in this process group, and exit as it does."""
    lifeline, command = int(sys.argv[1]), sys.argv[2:]
    child = subprocess.Popen(command)
    # Held by the child alone, so that capo sees when it closes them.
    os.close(0)
    os.close(1)
    threading.Thread(target=_watch, args=(lifeline, child), daemon=True).start()
    code = child.wait()
    if select.select([lifeline], [], [], 0)[0]:
        os.killpg(0, signal.SIGKILL)  # capo is gone: nothing else ends what the child left behind
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _watch(lifeline: int, child: "subprocess.Popen[bytes]") -> None:
    os.read(lifeline, 1)
    try:
        child.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
