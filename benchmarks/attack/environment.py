"""Hostile surroundings: clocks, hash seeds, locales, limits, closed streams, and no home.

    python benchmarks/attack environment [FOLDER] [--tries N]

Whole runs must end with the bytes of an ordinary one, or stop with an error that says why. Commands on a
finished run must do the same. N runs only the first N whole runs.
"""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ground import LIMIT, SOURCE, command, digests, surroundings
from tries import Try

SETTINGS = (
    "prompts.count=4",
    "generate.samples_per_prompt=4",
    "generate.num_inference_steps=2",
    "generate.shard_prompts=2",
    "train.steps=2",
    "train.global_batch_size=2",
    "train.warmup_steps=1",
    "train.checkpoint_every=1",
    "train.validate_every=2",
    "train.validation_prompts.count=2",
    "train.validation_samples=1",
    "train.max_error_growth=1000",
    "evaluate.prompts.count=4",
    "evaluate.samples_per_prompt=2",
    "benchmarks=[]",
)
"""Every stage of recipe `shapes`, as small as it can be."""

JUMPING_CLOCK = """
import itertools, time
def jumping(read, second):
    jumps = itertools.cycle((0, 10**9 * second, -(10**9) * second))  # 31 years to and fro
    return lambda: read() + next(jumps)
time.time, time.time_ns = jumping(time.time, 1), jumping(time.time_ns, 10**9)
"""
"""A `sitecustomize` with which every reading of the clock jumps."""


@dataclass(frozen=True)
class Place:
    """Surroundings of a command: what a shell does before it, and variables."""

    what: str
    shell: str = 'exec "$@"'
    variables: dict[str, str] = field(default_factory=dict)
    refusal: str = ""
    """What an error must mention if the command may refuse to work."""
    rounds: bool = False
    """True if sums may be rounded differently: the same files must be made, with other bytes at most."""


def whole_runs(folder: Path, full: Path) -> list[Place]:
    """Return surroundings of whole runs, several at once: what breaks one of them breaks the run."""
    clock = f"{folder / 'clock'}:{SOURCE}"
    return [
        Place(
            "hash seed 1, locale C, zone Asia/Kolkata, umask 077, stdin closed, dumb terminal",
            'umask 077; exec "$@" <&-',
            {"PYTHONHASHSEED": "1", "LC_ALL": "C", "TZ": "Asia/Kolkata", "TERM": "dumb"},
        ),
        Place(
            "random hash seed, locale POSIX, a clock that jumps by years, no HOME, stdout closed",
            'unset HOME; exec "$@" >&-',
            {"PYTHONHASHSEED": "random", "LC_ALL": "POSIX", "PYTHONPATH": clock},
        ),
        Place(
            "64 open files, umask 000, cache on a full disk, Turkish locale, HOME that cannot be written",
            'ulimit -n 64; umask 000; exec "$@"',
            {"CAPO_CACHE": str(full), "LC_ALL": "tr_TR.UTF-8", "HOME": "/proc"},
        ),
        Place(
            "1.5 GB of address space",
            'ulimit -v 1500000; exec "$@"',
            refusal="memory|allocat|failed to map|Resource temporarily|thread",
        ),
        *(Place(f"{n} threads", variables={"OMP_NUM_THREADS": str(n)}, rounds=True) for n in range(2, 9)),
    ]


STREAMS = [
    Place("stdout closed", 'exec "$@" >&-'),
    Place("stderr closed", 'exec "$@" 2>&-'),
    Place("stdin closed", 'exec "$@" <&-'),
    Place("all streams closed", 'exec "$@" <&- >&- 2>&-'),
    Place("stdout read by head -1", '"$@" | head -1; exit ${PIPESTATUS[0]}', refusal="^$"),
    Place("stdout on a full disk", 'exec "$@" > /dev/full', refusal="No space left"),
    Place("stderr on a full disk", 'exec "$@" 2> /dev/full'),
    Place(
        "the current folder is removed",
        'mkdir gone; cd gone; rmdir ../gone; exec "$@"',
        refusal="current folder was removed",
    ),
    Place("no HOME", 'unset HOME; exec "$@"'),
    Place("HOME and cache do not exist", variables={"HOME": "/nowhere", "CAPO_CACHE": "/nowhere/cache"}),
    Place("the cache is a file", variables={"CAPO_CACHE": "/dev/null"}),
    Place("no temporary folder", variables={"TMPDIR": "/nowhere"}),
    Place("locale that does not exist", variables={"LC_ALL": "xx_XX.UTF-8", "LANG": "xx"}),
    Place("terminal of one column", variables={"COLUMNS": "1", "LINES": "1"}),
    Place("columns that are no number", variables={"COLUMNS": "many", "TERM": ""}),
    Place("10 open files", 'ulimit -n 10; exec "$@"', refusal="[Tt]oo many open files"),
]
"""Surroundings of single commands on a finished run."""

COMMANDS = (("status", "--run"), ("status", "--json", "--run"), ("report", "--run"))


def attack(folder: Path, most: int | None = None) -> Iterator[Try]:
    """Yield a try for every whole run, every command, and every change of times."""
    (folder / "clock").mkdir(exist_ok=True)
    (folder / "clock" / "sitecustomize.py").write_text(JUMPING_CLOCK)
    usual = folder / "usual"
    if made := _problem(Place("as usual"), *_run(usual)):
        raise RuntimeError(made)
    expected = digests(usual)
    yield from _commands(usual)
    yield from _times(usual, expected)
    with full_disk() as full:
        for number, place in enumerate(whole_runs(folder, full)[:most]):
            run = folder / f"odd-{number}"
            shutil.rmtree(run, ignore_errors=True)
            problem = _problem(place, *_run(run))
            yield Try("whole runs", place.what, *_judged(place, run, expected, problem))


def _judged(place: Place, run: Path, expected: dict[str, str], problem: str) -> tuple[str, str]:
    """Return what is wrong with a run in hostile surroundings, and how it held."""
    if problem or not (run / "report" / "index.html").exists():
        return problem, "refused"
    found = digests(run)
    different = [name for name in expected.keys() | found.keys() if found.get(name) != expected.get(name)]
    if not different:
        return "", "equal"
    if place.rounds and found.keys() == expected.keys():
        return "", "equal but for rounding"
    return f"other bytes: {', '.join(sorted(different)[:5])}", ""


def _commands(run: Path) -> Iterator[Try]:
    for place in STREAMS:
        for words in COMMANDS:
            problem = _problem(place, *words, str(run))
            yield Try("commands on a finished run", f"{' '.join(words)}, {place.what}", problem)


def _times(run: Path, expected: dict[str, str]) -> Iterator[Try]:
    """Set all modification times to the distant past and the distant future."""
    for when, seconds in (("1970", 0), ("2106", 2**32)):
        for path in run.rglob("*"):
            os.utime(path, (seconds, seconds))
        problem = _problem(Place("times"), *_run(run))
        if not problem and digests(run) != expected:
            problem = "the run was made again, and differently"
        yield Try("times of files", f"all files are of {when}", problem, "equal")


def _run(run: Path) -> list[str]:
    return ["run", "shapes", "--run", str(run), *(word for s in SETTINGS for word in ("--set", s))]


def _problem(place: Place, *arguments: str) -> str:
    """Run a command in its surroundings; return what is wrong with how it ends, or an empty string."""
    with tempfile.TemporaryDirectory() as here:
        done = subprocess.run(
            ["bash", "-c", place.shell, "bash", *command(*arguments)],
            cwd=here,
            env=surroundings(**place.variables),
            capture_output=True,
            text=True,
            errors="backslashreplace",
            timeout=LIMIT,
            check=False,
        )
    words = f"capo {shlex.join(arguments[:2])}: exit code {done.returncode}: {done.stderr[-600:]}"
    if "Traceback" in done.stderr or done.returncode < 0:
        return words
    if done.returncode == 0:
        return ""
    expected = place.refusal and re.search(place.refusal, done.stderr.strip())
    return "" if expected else words


@contextmanager
def full_disk() -> Iterator[Path]:
    """Yield a folder on a file system without free space, or one that is a file where none can be mounted."""
    with tempfile.TemporaryDirectory() as temporary:
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", temporary]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            yield Path(os.devnull)
            return
        try:
            with Path(temporary, "rest").open("wb", buffering=0) as file, suppress(OSError):
                while file.write(bytes(4096)):
                    pass
            yield Path(temporary)
        finally:
            subprocess.run(["umount", temporary], check=True)
