"""Break every promise of docs/concepts/reliability.md on purpose, and run the tests that it names.

    python benchmarks/attack mutants [FOLDER] [--tries N]

`mutants.yaml` has the faults, by promise: the text of a file of `src/capo` that is replaced, and the tests
that must see it. Every fault is put into a copy of the source, never into the source itself. N takes only the
first N faults of every promise.

The tests run in forks of one process that has imported the large libraries, and nothing of capo, so that a
fault costs seconds.
"""

import contextlib
import gc
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from ground import SOURCE
from tries import Try

PROJECT = SOURCE.parent
TABLE = Path(__file__).with_name("mutants.yaml")
LIBRARIES = ("pytest", "torch", "pyarrow.parquet", "safetensors.torch", "transformers", "diffusers", "peft")
"""Imported first; the run without a fault says which of their modules the tests need."""
LIMIT = 900
"""Seconds for the tests of a fault; one that makes them wait for longer is seen too."""


@dataclass(frozen=True)
class Mutant:
    """A fault: `old` becomes `new` in a file of the package, and a promise is broken."""

    promise: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def name(self) -> str:
        """The file and the first changed line, for messages."""
        pairs = zip(self.old.splitlines(), [*self.new.splitlines(), ""], strict=False)
        line = next((old for old, new in pairs if old != new), self.old)
        return f"{self.file}: {line.strip()}"


def mutants(path: Path = TABLE) -> list[Mutant]:
    """Read the table."""
    table = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [
        Mutant(promise, row["file"], row["old"], row["new"], tuple(row["tests"]))
        for promise, rows in table.items()
        for row in rows
    ]


def attack(folder: Path, most: int | None = None) -> Iterator[Try]:
    """Yield a try for every fault: it is killed if its tests fail, and a problem if they pass."""
    chosen = [m for p, group in _by_promise(mutants()).items() for m in group[:most]]
    import_libraries(LIBRARIES)
    with tempfile.TemporaryDirectory() as temporary, copied_source(Path(temporary)) as package:
        everything = sorted({test for mutant in chosen for test in mutant.tests})
        unbroken = run_tests(everything, package, folder / "mutants.log", needed := folder / "modules")
        import_libraries(needed.read_text().split())
        yield Try("without a fault", "all tests pass", "" if unbroken == 0 else f"they end with {unbroken}")
        for mutant in chosen:
            problem = _problem(mutant, package, folder / "mutants.log")
            yield Try(mutant.promise, mutant.name, problem, "" if problem else "killed")


def _problem(mutant: Mutant, package: Path, log: Path) -> str:
    started = time.monotonic()
    with broken(package / mutant.file, mutant.old, mutant.new) as fits:
        if not fits:
            return "its text is not in the file exactly once"
        code = run_tests(mutant.tests, package, log)
    print(f"{mutant.name}: {code}, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    if code == 0:
        return f"survived {', '.join(mutant.tests)}"
    return "" if code in (1, -signal.SIGKILL) else f"pytest ended with {code}: no such test?"


@contextlib.contextmanager
def copied_source(folder: Path) -> Iterator[Path]:
    """Yield a copy of the package to break; large weights are links."""

    def copy(source: str, target: str) -> None:
        large = Path(source).suffix == ".safetensors"
        Path(target).symlink_to(source) if large else shutil.copy2(source, target)

    shutil.copytree(SOURCE, folder / "src", copy_function=copy, ignore=shutil.ignore_patterns("*.egg-info"))
    yield folder / "src" / "capo"


@contextlib.contextmanager
def broken(file: Path, old: str, new: str) -> Iterator[bool]:
    """Within it, `file` has `new` in place of `old`; yields False if it does not have `old` exactly once."""
    text = file.read_text(encoding="utf-8")
    fits = text.count(old) == 1
    if fits:
        file.write_text(text.replace(old, new), encoding="utf-8")
    try:
        yield fits
    finally:
        file.write_text(text, encoding="utf-8")


def run_tests(
    tests: Sequence[str], package: Path, log: Path, needed: Path | None = None, seconds: float = LIMIT
) -> int:
    """Run tests against a copy of the package in a fork; return pytest's exit code, or -9 if it hangs.

    Writes the modules of libraries that they import to the file `needed`.
    """
    child = os.fork()
    if not child:
        _become_pytest(tests, package, log, needed)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            _kill_group(child)  # what a broken test left behind
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    _kill_group(child)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def import_libraries(names: Iterable[str]) -> None:
    """Import what can be imported of these modules, for all forks."""
    for name in names:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that no fork copies it


def _become_pytest(tests: Sequence[str], package: Path, log: Path, needed: Path | None) -> None:
    import pytest

    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.chdir(PROJECT)
    with tempfile.TemporaryDirectory() as temporary:
        fixed = {"PYTHONPATH": str(package.parent), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        os.environ |= {**fixed, "CAPO_CACHE": temporary}
        sys.path.insert(0, str(package.parent))
        options = ["-q", "-x", "-p", "no:cacheprovider", f"--basetemp={temporary}/tests"]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what is imported already
        try:
            code = int(pytest.main([*options, *tests]))
        except BaseException:
            traceback.print_exc()
            code = 3
    if needed is not None:
        origins = {name: getattr(module, "__file__", None) or "" for name, module in sys.modules.items()}
        needed.write_text("\n".join(sorted(n for n, origin in origins.items() if "site-packages" in origin)))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _by_promise(found: Sequence[Mutant]) -> dict[str, list[Mutant]]:
    return {p: [m for m in found if m.promise == p] for p in dict.fromkeys(m.promise for m in found)}
