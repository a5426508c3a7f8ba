"""The process of a reward program: one line of JSON out, one line of JSON back, in time or not at all."""

import io
import json
import os
import selectors
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, cast

from capo.engine.plain_text import plain_text
from capo.rewards.protocol import ProtocolError, RewardTimeoutError
from capo.rewards.transports import wire
from capo.rewards.transports.process_group import end_group, kill_group

PROGRAMS = Path(__file__).parent / "programs"

GRACE_SECONDS = 2.0
"""Time for a program to end by itself."""
LINES_SHOWN = 20
"""Lines of output shown when a program fails."""
READ_BYTES = 2**16
"""Most bytes that are read at once."""
LONGEST_LINE = 400
"""Characters of such a line; longer ones count as several."""


class ProgramEndedError(Exception):
    """The program ended; the message has the last lines of its output."""


class ChildProgram:
    """A running program. It ends with this object, and with capo, even if that is killed."""

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str]) -> None:
        """Raises `OSError` if the program cannot be started."""
        self._name, self._command = name, command
        self._ids = count(1)
        self._output: deque[str] = deque(maxlen=LINES_SHOWN)
        self._received, self._searched = bytearray(), 0
        self._process, lifeline = _start(command, environment)
        self._listener = threading.Thread(target=_listen, args=(self._process, self._output), daemon=True)
        self._listener.start()
        self._end = weakref.finalize(self, _end, self._process, lifeline)

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Return the reply to a request.

        Raises `ProgramEndedError`, `ProtocolError` for a reply to another request, and `RewardTimeoutError`
        after `timeout` seconds; the program is then killed.
        """
        number = next(self._ids)
        deadline = time.monotonic() + timeout
        reply = self._exchange(json.dumps({"id": number, **request}).encode() + b"\n", deadline)
        if reply is None:
            late = time.monotonic() >= deadline
            if late:
                kill_group(self._process)
            self._end()
            self._listener.join(GRACE_SECONDS)
            raise self._failure(timeout if late else None)
        if "protocol" not in request and reply.get("id") != number:
            raise ProtocolError(
                f"reward {self._name!r}: {self._shown} answered request {number} with id "
                f"{repr(reply.get('id'))[: wire.SHOWN]}; a program must answer every request once, with "
                "its id"
            )
        return reply

    def _exchange(self, line: bytes, deadline: float) -> dict[str, Any] | None:
        """Write a line and return the first JSON object that comes back.

        None if the output ends, or at the deadline. Nothing that the program does or leaves behind delays
        that.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        incoming, outgoing = self._process.stdout.fileno(), self._process.stdin.fileno()
        if (reply := self._take()) is not None:
            return reply
        rest = memoryview(line)
        with selectors.DefaultSelector() as ready:
            ready.register(incoming, selectors.EVENT_READ)
            ready.register(outgoing, selectors.EVENT_WRITE)
            while (seconds := deadline - time.monotonic()) > 0:
                for key, _ in ready.select(seconds):
                    if key.fd == incoming:
                        if not (data := os.read(incoming, READ_BYTES)):
                            return None
                        self._received += data
                        if (reply := self._take()) is not None:
                            return reply
                        continue
                    try:
                        rest = rest[os.write(outgoing, rest) :]
                    except BrokenPipeError:
                        return None
                    if not rest:
                        ready.unregister(outgoing)
        return None

    def _take(self) -> dict[str, Any] | None:
        """Return the first JSON object in the whole lines received, and remove them up to it."""
        while (end := self._received.find(b"\n", self._searched)) >= 0:
            line = self._received[:end].decode("utf-8", errors="replace")
            del self._received[: end + 1]
            self._searched = 0
            if (reply := _json_object(line)) is not None:
                return reply
            self._output.append(
                f"{line[:LONGEST_LINE]}\n"
            )  # printed by a library before output was redirected
        self._searched = len(self._received)
        if self._searched >= wire.LONGEST_REPLY:
            raise ProtocolError(
                f"reward {self._name!r}: {self._shown} wrote a line of {wire.LONGEST_REPLY:,} bytes or more"
            )
        return None

    @property
    def _shown(self) -> str:
        return " ".join(self._command)

    def _failure(self, timeout: float | None) -> Exception:
        output = plain_text("".join(self._output)).strip()
        detail = f": {output}" if output else ""
        if timeout is not None:
            return RewardTimeoutError(f"{self._shown} gave no answer in {timeout:g} s{detail}")
        return ProgramEndedError(f"{self._shown} ended with exit status {self._process.returncode}{detail}")


def _start(command: Sequence[str], environment: dict[str, str]) -> "tuple[subprocess.Popen[bytes], int]":
    """Start the program under `programs/supervise.py`; returns the end of the lifeline that capo holds."""
    if shutil.which(command[0], path=environment.get("PATH")) is None:
        raise FileNotFoundError(f"no program {command[0]!r} on the PATH")
    supervisor = [sys.executable, "-I", "-S", str(PROGRAMS / "supervise.py")]
    pipe = subprocess.PIPE
    theirs, ours = os.pipe()
    try:
        # A session of its own: Ctrl-C is for capo, which then ends the program.
        process = subprocess.Popen(
            [*supervisor, str(theirs), *command], stdin=pipe, stdout=pipe, stderr=pipe, env=environment,
            start_new_session=True, pass_fds=(theirs,), bufsize=0,
        )  # fmt: skip
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return process, ours


def _json_object(line: str) -> dict[str, Any] | None:
    """Return the JSON object that a line is, or None."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _listen(process: "subprocess.Popen[bytes]", output: "deque[str]") -> None:
    errors = io.BufferedReader(cast(io.RawIOBase, process.stderr))
    with io.TextIOWrapper(errors, "utf-8", errors="replace") as lines:
        while line := lines.readline(LONGEST_LINE):
            output.append(line)


def _end(process: "subprocess.Popen[bytes]", lifeline: int) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.close()  # a well-behaved program ends when its input does
    end_group(process, GRACE_SECONDS)
    os.close(lifeline)
    process.stdout.close()
