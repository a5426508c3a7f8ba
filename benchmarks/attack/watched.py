"""Attack the `capo` command: run it under watch, judge how it ended, and print a table of what held.

Every command is a process with its own output files and limits on time and memory. The process that has
imported capo forks them, so that hundreds of commands take minutes; `fresh` starts one from nothing.
"""

import gc
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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

    def fault(self, names: Sequence[str] = (), codes: Sequence[int] = (1, 2)) -> str:
        """Say why this is no orderly end: the code, or an error that lacks one of `names`. Empty if it is."""
        said = self.out + self.err
        if "Traceback (most recent call last)" in said:
            return "traceback: " + said.strip().splitlines()[-1][:160]
        if self.code not in codes:
            return f"exit code {self.code}: {(self.err or self.out).strip()[-160:]}"
        if raw := RAW.search(said.replace("\r\n", "\n")):
            return f"raw character U+{ord(raw[0]):04X} in {said[max(0, raw.start() - 60) : raw.end() + 20]!r}"
        if self.seconds > SECONDS:
            return f"took {self.seconds:.0f} s"
        if self.megabytes > MEGABYTES:
            return f"took {self.megabytes:.0f} MB"
        if len(said) > 100_000:
            return f"printed {len(said):,} characters"
        missing = [name for name in names if self.code and name not in said]
        return f"does not name {missing[0]!r}: {self.err.strip()[:160]}" if missing else ""


@dataclass
class Table:
    """The cases of a script: how many were tried, and which failed."""

    title: str
    rows: dict[str, list[str]] = field(default_factory=dict)
    tried: dict[str, int] = field(default_factory=dict)

    def add(self, case: str, fault: str, detail: str = "") -> None:
        """Count a try of `case`; a `fault` is why it failed."""
        if fault:
            print(f"{case}: {detail}: {fault}", file=sys.stderr, flush=True)
        self.tried[case] = self.tried.get(case, 0) + 1
        self.rows.setdefault(case, [])
        if fault:
            self.rows[case].append(f"{detail}: {fault}" if detail else fault)

    def finish(self) -> None:
        """Print the table, and exit with 1 if anything failed."""
        print(f"\n## {self.title}\n\n| case | tried | held | failed |\n|---|--:|--:|--:|")
        for case, faults in self.rows.items():
            print(f"| {case} | {self.tried[case]} | {self.tried[case] - len(faults)} | {len(faults)} |")
        for case, faults in self.rows.items():
            for fault in faults:
                print(f"FAILED {case}: {fault}")
        sys.exit(any(self.rows.values()))


def each(table: Table, case: str, tries: Iterable[tuple[str, Callable[[], str]]]) -> None:
    """Run tries: a name, and a function that returns its fault."""
    for name, attempt in tries:
        table.add(case, attempt(), name)


def warm(*args: str, folder: Path) -> None:
    """Run `capo ARGS` in this process, so that its forks need not import what this command needs."""
    from capo.cli import main

    before = Path.cwd()
    os.chdir(folder)
    sys.argv = ["capo", *args]
    try:
        main()
    except SystemExit as leaving:
        assert not leaving.code, f"capo {' '.join(args)} failed"
    finally:
        os.chdir(before)
    gc.freeze()  # so that a fork copies no pages merely by collecting garbage


def forked(*args: str, folder: Path, seconds: float = 2 * SECONDS, **environment: str) -> Ended:
    """Run `capo ARGS` in `folder`, in a fork of this process, which keeps what it has imported."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.monotonic()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            _become(args, folder, out.fileno(), err.fileno(), environment)
        status, usage = _wait(child, started + seconds)
        out.seek(0)
        err.seek(0)
        texts = [stream.read().decode(errors="replace") for stream in (out, err)]
        code = os.waitstatus_to_exitcode(status)
        return Ended(code, *texts, time.monotonic() - started, (usage.ru_maxrss - before) / 1024)


def fresh(*args: str, folder: Path, seconds: float = 300, **environment: str) -> Ended:
    """Run `capo ARGS` in `folder` as a process of its own."""
    started = time.monotonic()
    command = [sys.executable, "-m", "capo", *args]
    process = subprocess.Popen(
        command, cwd=folder, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
    return Ended(process.returncode, out, err, time.monotonic() - started, 0)


def _become(args: Sequence[str], folder: Path, out: int, err: int, environment: dict[str, str]) -> None:
    code = 70
    try:
        os.chdir(folder)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.environ.update(environment)
        sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
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
