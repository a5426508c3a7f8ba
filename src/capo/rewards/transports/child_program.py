"""The process of a reward program: one line of JSON out, one line of JSON back, in time or not at all."""

import json
import os
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
from typing import Any

from capo.engine.plain_text import plain_text
from capo.rewards.protocol import ProtocolError, RewardTimeoutError
from capo.rewards.transports import wire
from capo.rewards.transports.process_group import end_group, kill_group

PROGRAMS = Path(__file__).parent / "programs"

GRACE_SECONDS = 2.0
"""Time for a program to end by itself."""
LINES_SHOWN = 20
"""Lines of output shown when a program fails."""
LONGEST_LINE = 10_000
"""Characters of such a line."""


class ProgramEndedError(Exception):
    """The program ended; the message has the last lines of its output."""


class ChildProgram:
    """A running program. It ends with this object, and with capo, even if that is killed."""

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str]) -> None:
        """Raises `OSError` if the program cannot be started."""
        self._name, self._command = name, command
        self._ids = count(1)
        self._output: deque[str] = deque(maxlen=LINES_SHOWN)
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
        started = time.monotonic()
        killer = threading.Timer(timeout, kill_group, [self._process])
        killer.start()
        try:
            reply = self._exchange(json.dumps({"id": number, **request}) + "\n")
        finally:
            killer.cancel()
        if reply is None:
            self._end()
            self._listener.join(GRACE_SECONDS)
            raise self._failure(timeout if time.monotonic() - started >= timeout else None)
        if "protocol" not in request and reply.get("id") != number:
            raise ProtocolError(
                f"reward {self._name!r}: {self._shown} answered request {number} with id "
                f"{reply.get('id')!r}; a program must answer every request once, with its id"
            )
        return reply

    def _exchange(self, line: str) -> dict[str, Any] | None:
        """Write a line and return the first JSON object that comes back, or None if the output ends."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        while answer := self._process.stdout.readline(wire.LONGEST_REPLY):
            if len(answer) == wire.LONGEST_REPLY:
                raise ProtocolError(
                    f"reward {self._name!r}: {self._shown} wrote a line of {wire.LONGEST_REPLY:,} characters "
                    "or more"
                )
            if (reply := _json_object(answer)) is not None:
                return reply
            self._output.append(answer[:LONGEST_LINE])  # printed by a library before output was redirected
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


def _start(command: Sequence[str], environment: dict[str, str]) -> "tuple[subprocess.Popen[str], int]":
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
            start_new_session=True, pass_fds=(theirs,), text=True, encoding="utf-8", errors="replace",
        )  # fmt: skip
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return process, ours


def _json_object(line: str) -> dict[str, Any] | None:
    """Return the JSON object that a whole line is, or None."""
    try:
        value = json.loads(line) if line.endswith("\n") else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _listen(process: "subprocess.Popen[str]", output: "deque[str]") -> None:
    assert process.stderr is not None
    with process.stderr:
        while line := process.stderr.readline(LONGEST_LINE):
            output.append(line)


def _end(process: "subprocess.Popen[str]", lifeline: int) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.close()  # a well-behaved program ends when its input does
    end_group(process, GRACE_SECONDS)
    os.close(lifeline)
    process.stdout.close()
