"""A disk that is full, read-only or taken away, and directories with hostile names.

The disk is a small tmpfs, so this needs the right to mount. Every stage is run on a disk that has no free
byte, and then has half of what the stage writes. The command must stop with the path and the advice to
free space; once the disk is larger, the same command must make the bytes of an undisturbed run.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flips import copy_tree, without
from forks import Ended, fork, import_all, modules, prepare, start
from ground import digests, ground
from tries import Try

STAGES = {
    "prompts": ("prompts",),
    "generate": ("samples",),
    "score": tuple(f"scores/{name}" for name in ("preference", "alignment", "aesthetic", "heldout")),
    "pair": ("pairs",),
    "train": ("train",),
    "evaluate": ("baseline", "evaluate"),
    "benchmark shapes": (
        *(f"benchmarks/shapes/judgments/{model}" for model in ("base", "tuned")),
        "benchmarks/shapes/results",
    ),
    "report": ("report",),
}
"""Commands, and the artifacts that they make."""

PAGE = 4096
LARGE = 1 << 30

NAMES = {
    "spaces and quotes": "a 'run' of \"mine\"",
    "shell metacharacters": "$(touch owned); `touch owned` & | > owned #*?[]{}~!\\",
    "Unicode, decomposed and right to left": "e\u0301\u0308 שלום 🧵 \u202eexe",
    "line break and tab": "first\nsecond\tthird",
    "option": "--force",
    "255 bytes": "x" * 255,
    "HTML": "<img src=x onerror=alert(1)>",
    "braces and percent": "{run}%s%(x)s{{x}}",
}


def attack(folder: Path) -> Iterator[Try]:
    """Attack by disks and directories; yields what became of every try."""
    for one in _attack(folder):
        print(f"{one.case}, {one.what}: {one.outcome if not one.problem else 'FAILED'}", flush=True)
        yield one


def _attack(folder: Path) -> Iterator[Try]:
    prepare()
    disk = Disk(folder)
    with disk.mounted(LARGE):
        disk.warm()
        for command, artifacts in STAGES.items():
            yield from disk.full(command, artifacts)
        yield disk.full_cache()
        yield from disk.read_only()
        yield from taken_away(disk)
    yield from names(disk)


class Disk:
    """A small file system with a run on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.place = folder / "disk"
        self.run = self.place / "run"
        self.logs = folder / "logs"
        self.ground = ground(folder / "ground")
        self.expected = without_report(digests(self.ground))

    @contextmanager
    def mounted(self, size: int) -> Iterator[None]:
        """Mount it, and unmount it at the end."""
        self.place.mkdir(parents=True, exist_ok=True)
        _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.place))
        try:
            yield
        finally:
            subprocess.run(["umount", "-l", str(self.place)], check=True)

    def grow(self, free: int) -> None:
        """Leave as many bytes free."""
        status = os.statvfs(self.place)
        used = (status.f_blocks - status.f_bfree) * status.f_frsize
        _mount("-o", f"remount,rw,size={max(PAGE, used + free)}", str(self.place))

    def fill(self, *missing: str) -> None:
        """Copy the finished run there, without some artifacts."""
        self.grow(LARGE)
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.copytree(self.ground, self.run)
        for artifact in missing:
            without(self.run, artifact)

    def capo(self, command: str, *more: str, **environment: str) -> Ended:
        """Run a command on the run."""
        cache = {"CAPO_CACHE": str(self.folder / "cache")}
        return fork([*command.split(), "--run", str(self.run), *more], self.logs, **cache | environment)

    def warm(self) -> None:
        """Import what the commands import."""
        self.fill("pairs", "evaluate", "report")
        for command in ("pair", "evaluate", "report"):
            self.capo(command)
            import_all(modules(self.logs))

    def full(self, command: str, artifacts: tuple[str, ...]) -> Iterator[Try]:
        """Run a stage on a disk without a free byte, with half of the space it needs, and with enough."""
        self.fill()
        whole = _size(self.run)
        self.fill(*artifacts)
        half = (whole - _size(self.run)) // 2 // PAGE * PAGE
        for free in (0, half):
            self.grow(free)
            stopped = self.capo(command)
            problem = _rejected(stopped, str(self.run), "free some space")
            left = [path.name for path in self.run.rglob(".capo-*")]
            if not problem and left:
                problem = f"left {left}"
            yield Try("disk full", f"{command}, {free:,} bytes free", problem, "rejected by path")
        self.grow(LARGE)
        yield Try("disk full", f"{command}, afterwards", self._resumes(command), "resumed to equal bytes")

    def full_cache(self) -> Try:
        """Score while the disk of the user's cache is full."""
        self.fill("scores/preference")
        cache = self.place / "cache"
        cache.mkdir(exist_ok=True)
        run = self.folder / "elsewhere"
        shutil.rmtree(run, ignore_errors=True)
        shutil.move(self.run, run)
        self.grow(0)
        arguments = ["score", "--run", str(run)]
        ended = fork(arguments, self.logs, CAPO_CACHE=str(cache), CAPO_SCORE_CACHE="1")
        made = without_report(digests(run))
        problem = ended.err if ended.code else "" if made == self.expected else "another result"
        return Try("disk full", "score, cache on the full disk", problem, "unchanged")

    def read_only(self) -> Iterator[Try]:
        """Write on a read-only disk, and read from it."""
        self.fill("pairs")
        _mount("-o", "remount,ro", str(self.place))
        for command in ("pair", "run"):
            problem = _rejected(self.capo(command), str(self.run), "Read-only")
            yield Try("read-only", command, problem, "rejected")
        yield Try("read-only", "pair, writable again", self._writable_again(), "resumed to equal bytes")
        self.fill()
        _mount("-o", "remount,ro", str(self.place))
        made = self.folder / "made"
        shutil.rmtree(made, ignore_errors=True)
        for command, more in (
            ("status", ()),
            ("status --verify", ()),
            ("calibration", ("--json",)),
            ("data export", ("--to", str(made / "pairs"))),
        ):
            ended = self.capo(command, *more)
            yield Try("read-only", f"{command} of a finished run", ended.err if ended.code else "", "done")
        self.grow(LARGE)

    def _writable_again(self) -> str:
        self.grow(LARGE)
        return self._resumes("pair")

    def _resumes(self, command: str) -> str:
        ended = self.capo(command)
        if ended.code:
            return f"the same command failed afterwards: {ended.err[-1500:]}"
        made = without_report(digests(self.run))
        wrong = [n for n in made.keys() | self.expected.keys() if made.get(n) != self.expected.get(n)]
        missing = "" if (self.run / "report" / "index.html").exists() else "no report"
        return f"other bytes: {sorted(wrong)}" if wrong else missing


def taken_away(disk: Disk) -> Iterator[Try]:
    """Remove, rename or replace the run directory while a stage writes to it."""
    aside = disk.place / "aside"

    def remove() -> None:
        shutil.rmtree(disk.run, ignore_errors=True)

    def rename() -> None:
        disk.run.rename(aside)

    def replace() -> None:
        disk.run.rename(aside)
        disk.run.mkdir()

    def link() -> None:
        disk.run.rename(aside)
        disk.run.symlink_to(aside)

    ways: dict[str, Callable[[], None]] = {
        "removed": remove,
        "renamed": rename,
        "replaced by an empty one": replace,
    }
    for name, way in ways.items():
        shutil.rmtree(aside, ignore_errors=True)
        disk.fill("samples")
        arguments = ["generate", "--run", str(disk.run)]
        running = start(arguments, disk.logs, CAPO_CACHE=str(disk.folder / "cache"))
        while not running.over and not list(disk.run.glob("samples/shard-*.parquet")):
            time.sleep(0.002)
        way()
        ended = running.wait()
        problem = _rejected(ended, str(disk.run), "was removed or replaced")
        if not problem and disk.run.exists() and list(disk.run.iterdir()):
            problem = f"wrote into the new directory: {list(disk.run.iterdir())}"
        yield Try("directory taken away", name, problem, "stopped")
        if aside.exists():
            shutil.rmtree(disk.run, ignore_errors=True)
            aside.rename(disk.run)
            yield Try(
                "directory taken away",
                f"{name}, put back",
                disk._resumes("generate"),
                "resumed to equal bytes",
            )
    shutil.rmtree(aside, ignore_errors=True)
    disk.fill("pairs")
    link()
    yield Try("directory taken away", "a symbolic link to the run", disk._resumes("pair"), "equal bytes")
    disk.run.unlink()


def names(disk: Disk) -> Iterator[Try]:
    """Use directories with hostile names, for the run and for what commands make."""
    parent = disk.folder / "names"
    for name, text in NAMES.items():
        shutil.rmtree(parent, ignore_errors=True)
        parent.mkdir()
        place = parent / text
        copy_tree(disk.ground, place)
        without(place, "pairs")
        without(place, "report")
        problem = ""
        for words in (
            ["run", "--run", text],
            ["status", "--verify", "--run", text],
            ["data", "export", "--run", text, "--to", f"made/{text[:200]}"],
            ["images", "export", f"./{text}", "--to", f"made/images/{text[:200]}"],
        ):
            ended = fork(words, disk.logs, CAPO_CACHE=str(disk.folder / "cache"), ATTACKED_FOLDER=str(parent))
            if ended.code:
                problem = f"{words}: {ended.err[-800:]}"
                break
        made = without_report(digests(place))
        wrong = [n for n in made.keys() | disk.expected.keys() if made.get(n) != disk.expected.get(n)]
        if not problem and wrong:
            problem = f"other bytes: {wrong}"
        if list(parent.rglob("owned")):
            problem = "a shell ran the name"
        yield Try("hostile names", name, problem, "equal bytes")
    shutil.rmtree(parent)


def _rejected(ended: Ended, *words: str) -> str:
    """Return what is wrong with a command that must have been rejected with these words."""
    if ended.code != 1 or "Traceback" in ended.err:
        return f"code {ended.code}: {ended.err[-1500:]}"
    missing = [word for word in words if word not in ended.err]
    return f"does not say {missing}: {ended.err[-1500:].strip()}" if missing else ""


def without_report(files: dict[str, str]) -> dict[str, str]:
    """Leave out the report, whose code samples name the run directory."""
    return {
        name: digest for name, digest in files.items() if not name.startswith(("report/", "manifests/report"))
    }


def _size(folder: Path) -> int:
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in folder.rglob("*") if path.is_file())


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)
