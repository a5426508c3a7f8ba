"""A reward that is a program: it may run in a virtual environment of its own.

capo and the program exchange lines of JSON over stdin and stdout, as `programs/capo_reward.py` describes. A
program that has ended is started again for the next batch.
"""

import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo.recipe import RewardSection
from capo.rewards.comparison import parse_declared
from capo.rewards.protocol import RewardError, RewardTimeoutError, TransientError
from capo.rewards.transports.child_program import PROGRAMS, ChildProgram, ProgramEndedError
from capo.rewards.transports.environment import environment
from capo.rewards.transports.function import FunctionSource
from capo.rewards.weights.location import file_identity
from capo.store.check import Finding

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from capo.method.calibration import Comparison

SCRIPTS = (".py", ".sh")
"""Endings of arguments that name a part of the program, which must exist."""


class ProgramSource:
    """A section with a `command`, or a function that its `requirements` put into a process of its own."""

    def __init__(self, section: RewardSection, function: FunctionSource | None = None) -> None:
        self._name, self._timeout = section.name, section.timeout
        self._command, self._requirements = tuple(section.command), tuple(section.requirements)
        self._function = function
        if function is not None:
            self._command = ("python", str(PROGRAMS / "capo_reward.py"), function.source)
            self._requirements = ("pillow", *self._requirements)

    def identity(self) -> str:
        """Return the command with digests of the files in it, or the function; and the requirements."""
        what = self._function.identity() if self._function else " ".join(map(_identity_of, self._command))
        return " ".join([what, *self._requirements])

    def comparison(self) -> "Comparison | None":
        """Start the program and return the comparison it declares."""
        declared = _declared(self._name, self._command, self._requirements, self._timeout)
        return parse_declared(self._name, declared)

    def check(self) -> Iterator[Finding]:
        """Start the program, which must answer that it is ready."""
        self.comparison()
        yield from ()

    def load(self, device: Any) -> "ProgramReward":
        """Start the program, which chooses its device itself."""
        return ProgramReward(self._name, self._command, self._requirements, self._timeout)


class ProgramReward:
    """A running program behind the reward protocol; it ends with this object, and with capo."""

    def __init__(
        self, name: str, command: Sequence[str], requirements: Sequence[str] = (), timeout: float = 600.0
    ) -> None:
        from capo.rewards.transports.wire import TruncationRecord

        self.name, self.timeout = name, timeout
        self._command, self._environment = command, _environment(requirements)
        self._record = TruncationRecord()
        self._program: ChildProgram | None = None
        try:
            self._program, self.declared = self._start()
        except (ProgramEndedError, RewardTimeoutError) as error:
            raise RewardError(f"reward {name!r}: {error}") from None
        self.comparison = parse_declared(name, self.declared)

    def score(self, images: "list[Image.Image]", prompts: list[str]) -> "np.ndarray":
        """Return float64 [n].

        Raises `RuntimeError` if the program cannot score the images or ends, `RewardTimeoutError` if it does
        not answer in time, and `ProtocolError` for a wrong answer.
        """
        from capo.rewards.transports import wire

        try:
            reply = self._running().ask(wire.encode_request(images, prompts), self.timeout)
        except BaseException as error:
            self._program = None  # a late reply must not answer the next request
            if isinstance(error, ProgramEndedError):
                raise RuntimeError(str(error)) from None
            raise
        scores = wire.decode_reply(self.name, reply, len(images))
        self._record.add(self.name, reply, prompts)
        return scores

    def truncated(self, prompts: list[str]) -> "list[bool | None]":
        """Return for each prompt whether the program read only its beginning; None if it does not say."""
        return self._record.truncated(prompts)

    def _running(self) -> ChildProgram:
        if self._program is None:
            self._program, _ = self._start()
        return self._program

    def _start(self) -> tuple[ChildProgram, Any]:
        """Return the program, once it has answered, and the comparison it declares."""
        from capo.rewards.transports import wire

        try:
            program = ChildProgram(self.name, self._command, self._environment)
        except OSError as error:
            raise TransientError(
                f"reward {self.name!r}: {self._command[0]} does not start: {error}"
            ) from None
        reply = wire.check_hello(self.name, program.ask({"protocol": wire.PROTOCOL}, self.timeout))
        return program, reply.get("comparison")


@cache
def _declared(name: str, command: tuple[str, ...], requirements: tuple[str, ...], timeout: float) -> Any:
    return ProgramReward(name, command, requirements, timeout).declared


def _environment(requirements: Sequence[str]) -> dict[str, str]:
    """Return variables with which `capo_reward` can be imported and `python` has the requirements."""
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


def _identity_of(argument: str) -> str:
    path = Path(argument)
    if path.is_absolute() and path.suffix in SCRIPTS and not path.exists():
        raise RewardError(f"reward program {path} does not exist")
    return f"{path.name} {file_identity(path)}" if path.is_file() else argument
