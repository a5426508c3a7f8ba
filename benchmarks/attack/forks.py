"""Commands in forks of a process that has imported capo: hundreds of tries without hundreds of start-ups.

A fork runs the entry point of `capo` with arguments, as the installed command does. Nothing else is used.
"""

import gc
import importlib
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ground import SOURCE, surroundings

SECONDS = 240.0
"""Longer than any command here needs on a busy machine."""


@dataclass(frozen=True)
class Ended:
    """How a command ended; a negative code is the signal that ended it."""

    code: int
    out: str
    err: str


def prepare() -> None:
    """Make this process one that can fork commands: the environment of `capo`, and its entry point."""
    os.environ.update(surroundings(OPENBLAS_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false"))
    sys.path.insert(0, str(SOURCE))
    warnings.simplefilter("ignore", DeprecationWarning)  # about forks


def import_all(names: Iterable[str]) -> None:
    """Import modules that a command has used, so that its forks find them."""
    for name in names:
        with suppress(Exception):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()


@dataclass(frozen=True)
class Running:
    """A command that runs in a process of its own."""

    child: int
    place: Path

    @property
    def over(self) -> bool:
        """True once it ended."""
        return os.waitid(os.P_PID, self.child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    @property
    def cpu_seconds(self) -> float:
        """Processor time that it took so far."""
        fields = Path(f"/proc/{self.child}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.child, number)

    def wait(self) -> Ended:
        """Wait for its end, which is made by a kill if it does not come."""
        until = time.monotonic() + SECONDS
        while not self.over and time.monotonic() < until:
            time.sleep(0.005)
        if not self.over:
            self.signal(signal.SIGKILL)
        status = os.waitpid(self.child, 0)[1]
        out, err = ((self.place / name).read_text(errors="backslashreplace") for name in ("out", "err"))
        return Ended(os.waitstatus_to_exitcode(status), out, err)


def start(arguments: Sequence[str], place: Path, **environment: str) -> Running:
    """Start a command in a fork; its output and the names of its modules go to files in `place`.

    In the environment, ATTACKED_FOLDER is where it starts, and ATTACKED_BYTES is the memory it may take.
    """
    place.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child == 0:
        _become(arguments, place, environment)
    return Running(child, place)


def fork(arguments: Sequence[str], place: Path, **environment: str) -> Ended:
    """Run a command as `start` does, to its end."""
    return start(arguments, place, **environment).wait()


def modules(place: Path) -> list[str]:
    """Return the names of the modules that the last fork in `place` had imported at its end."""
    return (place / "modules").read_text().split()


def _become(arguments: Sequence[str], place: Path, environment: Mapping[str, str]) -> None:
    code = 70
    try:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.environ.update(environment)
        os.chdir(environment.get("ATTACKED_FOLDER", "."))
        signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # also if this process runs in the background
        if more := environment.get("ATTACKED_BYTES"):
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + int(more),) * 2)
        sys.argv = ["capo", *arguments]
        from capo.cli import main

        main()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:  # what Python itself would print
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
            (place / "modules").write_text("\n".join(sorted(sys.modules)))
        os._exit(code)
