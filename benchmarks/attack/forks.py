"""Run `capo` commands in forks of a process that has imported capo, and judge how they end.

A fork runs the entry point of `capo` with arguments, as the installed command does, with its own output files
and a limit on its time. Nothing else is used. So hundreds of commands take minutes.
"""

import gc
import importlib
import os
import re
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

LONGEST = 240.0
"""Seconds, longer than any command here needs on a busy machine; then it is killed."""
SECONDS = 60.0
"""Time that a command may take to reject hostile data."""
MEGABYTES = 1500
"""Memory that it may take beyond what Python and its libraries do."""
RAW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that command a terminal, or change the order of what follows them."""


@dataclass(frozen=True)
class Ended:
    """How a command ended; a negative code is the signal that ended it."""

    code: int
    out: str
    err: str
    seconds: float
    megabytes: float
    """Peak memory beyond that of the process it was forked from."""

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

    @property
    def outcome(self) -> str:
        """How an orderly command ended, in a word."""
        return "rejected" if self.code else "accepted"


def prepare() -> None:
    """Make this process one that can fork commands: the environment of `capo`, and its entry point."""
    if str(SOURCE) in sys.path:
        return
    os.environ.update(surroundings(OPENBLAS_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false"))
    sys.path.insert(0, str(SOURCE))
    warnings.simplefilter("ignore", DeprecationWarning)  # about forks


def import_all(names: Iterable[str]) -> None:
    """Import modules that a command has used, so that its forks find them."""
    for name in names:
        with suppress(Exception):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that a fork copies no pages merely by collecting garbage


@dataclass(frozen=True)
class Running:
    """A command that runs in a process of its own."""

    child: int
    place: Path
    started: float
    before: int
    """Peak memory of this process before the fork, in KiB."""

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

    def wait(self, seconds: float = LONGEST) -> Ended:
        """Wait for its end, which is made by a kill if it does not come."""
        until = time.monotonic() + seconds
        while not self.over and time.monotonic() < until:
            time.sleep(0.005)
        if not self.over:
            self.signal(signal.SIGKILL)
        _, status, usage = os.wait4(self.child, 0)
        out, err = (
            (self.place / name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err")
        )
        took, megabytes = time.monotonic() - self.started, (usage.ru_maxrss - self.before) / 1024
        return Ended(os.waitstatus_to_exitcode(status), out, err, took, megabytes)


def start(arguments: Sequence[str], place: Path, **environment: str) -> Running:
    """Start a command in a fork; its output and the names of its modules go to files in `place`.

    In the environment, ATTACKED_FOLDER is where it starts, and ATTACKED_BYTES is the memory it may take.
    """
    place.mkdir(parents=True, exist_ok=True)
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _become(arguments, place, environment)
    return Running(child, place, started, before)


def fork(arguments: Sequence[str], place: Path, **environment: str) -> Ended:
    """Run a command as `start` does, to its end."""
    return start(arguments, place, **environment).wait()


def modules(place: Path) -> list[str]:
    """Return the names of the modules that the last fork in `place` had imported at its end."""
    return (place / "modules").read_text().split()


def start_in(folder: Path, *arguments: str, **environment: str) -> Running:
    """Start `capo ARGUMENTS` in a folder."""
    return start(arguments, folder / "logs", ATTACKED_FOLDER=str(folder), **environment)


def run_in(folder: Path, *arguments: str, seconds: float = LONGEST, **environment: str) -> Ended:
    """Run `capo ARGUMENTS` in a folder to its end."""
    return start_in(folder, *arguments, **environment).wait(seconds)


def warm(folder: Path, *arguments: str) -> None:
    """Run `capo ARGUMENTS` in a folder; later forks need not import what it imported."""
    prepare()
    run_in(folder, *arguments)
    import_all(modules(folder / "logs"))


def _become(arguments: Sequence[str], place: Path, environment: Mapping[str, str]) -> None:
    code = 70
    try:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", encoding="utf-8", closefd=False) for n in (1, 2))
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
