"""A reward that is a program: it may run in a virtual environment of its own.

capo speaks with it over stdin and stdout, in the lines of JSON that `programs/capo_reward.py`
describes and answers. A program that died is started again when it is next asked.
"""

import json
import os
import signal
import subprocess
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo.recipe import RewardSection
from capo.rewards.comparison import parse_comparison
from capo.rewards.protocol import RewardError, TransientError
from capo.rewards.transports.environment import environment
from capo.rewards.transports.function import FunctionSource
from capo.rewards.weights.location import file_identity

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from capo.method.calibration import Comparison

PROGRAMS = Path(__file__).parent / "programs"
PATIENCE = 2.0
"""Seconds for a program to end by itself."""
LAST_WORDS = 20
"""Lines of its stderr that are shown when it dies."""


class ProgramSource:
    """A section with a `command`, or a function that `requirements` put into another process."""

    def __init__(self, section: RewardSection, function: FunctionSource | None = None) -> None:
        self._name, self._timeout = section.name, section.timeout
        self._command, self._requirements = tuple(section.command), tuple(section.requirements)
        self._function = function
        if function is not None:
            self._command = ("python", str(PROGRAMS / "capo_reward.py"), function.source)
            self._requirements = ("pillow", *self._requirements)

    def identity(self) -> str:
        """The command with digests of the files in it, or the function; and the requirements."""
        what = self._function.identity() if self._function else " ".join(map(_told_part, self._command))
        return " ".join([what, *self._requirements])

    def comparison(self) -> "Comparison | None":
        """What the program answers first."""
        return parse_comparison(_declared(self._name, self._command, self._requirements, self._timeout))

    def load(self, device: Any) -> "ProgramReward":
        """The running program. `device` is its own affair."""
        return ProgramReward(self._name, self._command, self._requirements, self._timeout)


class ProgramReward:
    """A running program behind the reward protocol; it ends with this object."""

    def __init__(
        self, name: str, command: Sequence[str], requirements: Sequence[str] = (), timeout: float = 600.0
    ) -> None:
        from capo.rewards.transports.wire import Memory

        self.name = name
        self._said = Memory()
        self._command, self._timeout = command, timeout
        self._environment = _environment(requirements)
        self._program: _Program | None = None
        try:
            self.declared = self._running().declared
        except _EndedError as error:
            raise RewardError(f"reward {name!r}: {error}") from None
        self.comparison = parse_comparison(self.declared)

    def score(self, images: "list[Image.Image]", prompts: list[str]) -> "np.ndarray":
        """float64 [n]. Raises `RuntimeError` when the program cannot score them, or dies of them."""
        from capo.rewards.transports import wire

        try:
            told = self._running().ask(wire.question(images, prompts), self._timeout)
        except BaseException as error:
            self._program = None  # if it lives, its answer would be taken for that of the next question
            if isinstance(error, _EndedError):
                raise RuntimeError(str(error)) from None
            raise
        scores = wire.read_answer(self.name, told, len(images))
        self._said.keep(self.name, told, prompts)
        return scores

    def truncated(self, prompts: list[str]) -> "list[bool | None]":
        """Whether the program read only the beginning of each prompt, if it said so."""
        return self._said.truncated(prompts)

    def _running(self) -> "_Program":
        if self._program is None:
            try:
                self._program = _Program(self.name, self._command, self._environment, self._timeout)
            except OSError as error:
                raise TransientError(
                    f"reward {self.name!r}: {self._command[0]} does not start: {error}"
                ) from None
        return self._program


class _EndedError(Exception):
    """The program ended, or was ended for its silence; says with what words."""


class _Program:
    """One process, and what it said of itself."""

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str], timeout: float):
        from capo.rewards.transports import wire

        self._command = command
        pipe = subprocess.PIPE
        # A session of its own: Ctrl-C is for capo, which then lets it end.
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, start_new_session=True,
            text=True, encoding="utf-8", errors="replace",
        )  # fmt: skip
        self._words: deque[str] = deque(maxlen=LAST_WORDS)
        self._listener = threading.Thread(target=_listen, args=(self._process, self._words), daemon=True)
        self._listener.start()
        self.end = weakref.finalize(self, _end, self._process)
        told = wire.check_protocol(name, self.ask({"protocol": wire.PROTOCOL}, timeout))
        self.declared = told.get("comparison")

    def ask(self, asked: dict[str, Any], timeout: float) -> Any:
        """Its answer; raises `_EndedError` when it dies, or is ended as none comes in `timeout` seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        started = time.monotonic()
        late = threading.Timer(timeout, _kill, [self._process])
        late.start()
        try:
            self._process.stdin.write(json.dumps({"id": 1, **asked}) + "\n")
            self._process.stdin.flush()
            for line in self._process.stdout:
                if (answer := _table(line)) is not None:
                    return answer
                self._words.append(line)  # what its libraries print, before it could stop them
        except BrokenPipeError:
            pass
        finally:
            late.cancel()
        self.end()
        self._listener.join(PATIENCE)
        raise self._ended(timeout if time.monotonic() - started >= timeout else None)

    def _ended(self, silent_for: float | None) -> _EndedError:
        why = f"ended with exit status {self._process.returncode}"
        if silent_for is not None:
            why = f"gave no answer in {silent_for:g} s"
        words = "".join(self._words).strip()
        return _EndedError(f"{' '.join(self._command)} {why}{': ' if words else ''}{words}")


def isolated(section: RewardSection, function: FunctionSource) -> ProgramSource:
    """The function in a process of its own, whose environment has the section's requirements."""
    return ProgramSource(section, function)


@cache
def _declared(name: str, command: tuple[str, ...], requirements: tuple[str, ...], timeout: float) -> Any:
    return ProgramReward(name, command, requirements, timeout).declared


def _environment(requirements: Sequence[str]) -> dict[str, str]:
    """The variables of the process: `capo_reward` can be imported, and `python` has the requirements."""
    variables = dict(os.environ)
    paths = [str(PROGRAMS)]
    if requirements:
        folder = environment(requirements)
        variables["VIRTUAL_ENV"] = str(folder)
        variables["PATH"] = os.pathsep.join([str(folder / "bin"), variables.get("PATH", os.defpath)])
    elif before := variables.get("PYTHONPATH"):
        paths.append(before)
    variables["PYTHONPATH"] = os.pathsep.join(paths)
    return variables


def _table(line: str) -> dict[str, Any] | None:
    """The JSON object that a whole line is, if it is one."""
    try:
        told = json.loads(line) if line.endswith("\n") else None
    except ValueError:
        return None
    return told if isinstance(told, dict) else None


def _told_part(part: str) -> str:
    path = Path(part)
    return f"{path.name} {file_identity(path)}" if path.is_file() else part


def _listen(process: "subprocess.Popen[str]", words: "deque[str]") -> None:
    assert process.stderr is not None
    with process.stderr:
        words.extend(process.stderr)


def _end(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.close()  # what it waits for, to end by itself
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        _kill(process)
        process.wait()
    process.stdout.close()


def _kill(process: "subprocess.Popen[str]") -> None:
    """With all that it started: the scorer itself may be a child, as of `bash` or `conda run`."""
    with suppress(ProcessLookupError, PermissionError):  # macOS refuses where only a dead one is left
        os.killpg(process.pid, signal.SIGKILL)
