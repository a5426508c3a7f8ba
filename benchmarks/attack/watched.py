"""Run the `capo` command under watch, and judge how it ended.

Every command is a process with its own output files and a limit on its time. It is a fork of this process,
which has imported what the command needs: so hundreds of commands take minutes.
"""

import gc
import os
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

SECONDS = 60.0
"""Time that a command may take to reject hostile data."""
MEGABYTES = 1500
"""Memory that it may take beyond what Python and its libraries do."""
RAW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that command a terminal, or change the order of what follows them."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str
    seconds: float
    megabytes: float

    def fault(
        self, names: Sequence[str] = (), codes: Sequence[int] = (1, 2), seconds: float = SECONDS
    ) -> str:
        """Say why this is no orderly end: the code, or an error that lacks one of `names`. Empty if it is."""
        said = self.out + self.err
        if "Traceback (most recent call last)" in said and "capo/cli/" in said:
            return "traceback: " + said.strip().splitlines()[-1][:160]
        if self.code not in codes:
            return f"exit code {self.code}: {(self.err or self.out).strip()[-160:]}"
        if raw := RAW.search(said.replace("\r\n", "\n")):
            return f"raw character U+{ord(raw[0]):04X} in {said[max(0, raw.start() - 60) : raw.end() + 20]!r}"
        if self.seconds > seconds:
            return f"took {self.seconds:.0f} s"
        if self.megabytes > MEGABYTES:
            return f"took {self.megabytes:.0f} MB"
        if len(said) > 100_000:
            return f"printed {len(said):,} characters"
        missing = [name for name in names if self.code and name not in said]
        return f"does not name {missing[0]!r}: {self.err.strip()[:160]}" if missing else ""


def outcome(ended: Ended) -> str:
    """Say in a word how an orderly command ended."""
    return "rejected" if ended.code else "accepted"


def warm(*args: str, folder: Path) -> None:
    """Run `capo ARGS` in this process, so that its forks need not import what this command needs."""
    from capo.cli import main

    before = Path.cwd()
    os.chdir(folder)
    sys.argv = ["capo", *args]
    try:
        with suppress(SystemExit):
            main()
    finally:
        os.chdir(before)
    gc.freeze()  # so that a fork copies no pages merely by collecting garbage


class Command:
    """A running `capo ARGS` in `folder`: a fork of this process, which keeps what it has imported."""

    def __init__(self, *args: str, folder: Path, seconds: float = 2 * SECONDS, **environment: str) -> None:
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 (closed by finish)
        self._started = time.monotonic()
        self._deadline = self._started + seconds
        self._before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _become(args, folder, self._out.fileno(), self._err.fileno(), environment)

    def finish(self) -> Ended:
        """Wait for the end, which is forced once the command's time is over."""
        status, usage = _wait(self.pid, self._deadline)
        out, err = _content(self._out), _content(self._err)
        seconds, megabytes = time.monotonic() - self._started, (usage.ru_maxrss - self._before) / 1024
        return Ended(os.waitstatus_to_exitcode(status), out, err, seconds, megabytes)


def _content(file: IO[bytes]) -> str:
    with file:
        file.seek(0)
        return file.read().decode(errors="replace")


def forked(*args: str, folder: Path, seconds: float = 2 * SECONDS, **environment: str) -> Ended:
    """Run `capo ARGS` in `folder` to its end."""
    return Command(*args, folder=folder, seconds=seconds, **environment).finish()


def _become(args: Sequence[str], folder: Path, out: int, err: int, environment: dict[str, str]) -> None:
    code = 70
    try:
        os.chdir(folder)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.environ.update(environment)
        sys.stdout, sys.stderr = (
            os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2)
        )
        sys.argv = ["capo", *args]
        from capo.cli import main

        try:
            main()
            code = 0
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _wait(child: int, deadline: float) -> tuple[int, resource.struct_rusage]:
    while time.monotonic() < deadline:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            return status, usage
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    return status, usage
