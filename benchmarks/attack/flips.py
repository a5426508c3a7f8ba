"""Flipped bits, cut, swapped and lengthened files, of every kind that a run, a study and a human study keep.

Every try damages one file of a copy, and runs the command that reads it. The command must reject the file by
name, or make the same bytes as from the whole file: never another result, never a traceback.
"""

import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow.parquet as parquet
import yaml
from forks import Ended, fork, import_all, modules, prepare
from ground import command, digests, ground, succeed, surroundings
from tries import Try

TRIES = 700
"""Flipped bits, over all kinds of files."""


@dataclass(frozen=True)
class Kind:
    """A kind of file, with the commands that read it."""

    name: str
    files: str
    """Pattern in the folder of the start."""
    start: str
    """The folder that the commands work in, as `Starts` makes it."""
    commands: tuple[str, ...]
    """Words of `capo`; `{}` is the folder."""
    weight: float = 1
    """Share of the tries, compared with others."""
    stale: bool = False
    """True if the file may say that something else was wanted, so that stale artifacts are an answer."""
    remade: str = ""
    """Pattern of what the command may make anew if it ignores the file: it must then say the same, except for
    times and the last digits of scores, which another batch rounds differently."""


TRAIN = ("train --run {}/run --set train.steps=1 --set train.validation_prompts=null",)
"""One step, which reads as many prompts as a batch has."""
VALIDATED = ("train --run {}/run --set train.steps=1",)
REPORT = ("report --run {}/run",)
KINDS = (
    Kind("samples, read by training", "run/samples/shard-*.parquet", "untrained", TRAIN, 2),
    Kind("samples, read by scoring", "run/samples/shard-*.parquet", "unscored", ("score --run {}/run",)),
    Kind(
        "samples, exported",
        "run/samples/shard-*.parquet",
        "whole",
        ("data export --run {}/run --to {}/made",),
    ),
    Kind("latents", "run/samples/*.latents.safetensors", "untrained", TRAIN),
    Kind("conditioning", "run/samples/*con*.safetensors", "untrained", TRAIN),
    Kind("prompts", "run/prompts.parquet", "untrained", TRAIN),
    Kind("scores", "run/scores/*/*.parquet", "unpaired", ("pair --run {}/run",), 2),
    Kind("pairs", "run/pairs.parquet", "untrained", (*TRAIN, "calibration --run {}/run --json")),
    Kind("checkpoints", "run/train/checkpoints/*/*", "stopped", ("train --run {}/run",), 0.3),
    Kind("validation of the base", "run/validation/**/*", "untrained", VALIDATED, 0.5),
    Kind("policy", "run/train/best/**/*", "whole", ("export {}/run --to {}/made",)),
    Kind("policy, evaluated", "run/train/best/**/*", "unevaluated", ("evaluate --run {}/run",), 0.5),
    Kind("baseline", "run/baseline/**/*", "unevaluated", ("evaluate --run {}/run",), 0.7),
    Kind("evaluation", "run/evaluate/**/*.parquet", "unreported", REPORT),
    Kind("results", "run/**/results.json", "unreported", REPORT),
    Kind("metrics and validations", "run/train/*.jsonl", "unreported", REPORT),
    Kind(
        "benchmark images", "run/benchmarks/**/*.parquet", "unjudged", ("benchmark shapes --run {}/run",), 0.5
    ),
    Kind("benchmark judgments", "run/benchmarks/**/*.jsonl", "unsummed", ("benchmark shapes --run {}/run",)),
    Kind(
        "manifests",
        "run/manifests/**/*.json",
        "unreported",
        (*REPORT, "status --run {}/run --json"),
        3,
        stale=True,
    ),
    Kind(
        "records of written files", "run/manifests/*.written.jsonl", "stopped", ("train --run {}/run",), 0.3
    ),
    Kind("recipe", "run/recipe*.yaml", "unreported", ("report --run {}/run",), stale=True),
    Kind("marker and lock", "run/.*", "unreported", REPORT, 0.3),
    Kind("timings", "run/timings.jsonl", "whole", ("status --run {}/run --set train.beta=7 --json",), 0.3),
    Kind("replaced artifacts", "run/replaced/*/p*", "replaced", ("pair --run {}/run --force",), 0.5),
    Kind("records of what was replaced", "run/replaced/*/*.json", "replaced", ("clean --run {}/run --json",)),
    Kind("human study", "people/*.json", "people", ("people report {}/people",)),
    Kind("human study, votes", "people/votes/*", "people", ("people report {}/people",)),
    Kind("human study, images", "people/page/images/*", "people", ("people report {}/people",)),
    Kind(
        "study records",
        "study/*/*.json",
        "study",
        ("compare {}/study.yaml --to {}/study",),
        remade="study/table.md",
    ),
    Kind("study results", "study/*.json", "study", ("compare {}/study.yaml --to {}/study --json",), 0.3),
    Kind(
        "kept scores",
        "cache/scores/*.sqlite",
        "cached",
        ("score --run {}/run",),
        remade="run/scores/*/*.parquet",
    ),
)


def attack(folder: Path, tries: int = TRIES) -> Iterator[Try]:
    """Damage files of every kind; yields what became of every try."""
    prepare()
    starts = Starts(folder)
    weights = sum(kind.weight for kind in KINDS)
    for kind in KINDS:
        began = time.monotonic()
        attacked = Attacked(kind, starts)
        results = [
            attacked.tried(damage) for damage in damages(attacked, round(tries * kind.weight / weights))
        ]
        failed = sum(bool(one.problem) for one in results)
        seconds = time.monotonic() - began
        print(f"{kind.name}: {len(results)} tries, {failed} failed, {seconds:.0f} s", flush=True)
        yield from results


# Damage.


@dataclass(frozen=True)
class Damage:
    """What becomes of one file."""

    file: str
    how: str
    change: Callable[[bytes], bytes]


def damages(attacked: "Attacked", flips: int) -> Iterator[Damage]:
    """Yield flips at drawn positions, most of them in headers and footers, and some other damage."""
    drawn = random.Random(attacked.kind.name)
    files = attacked.files
    for _ in range(flips):
        file = drawn.choice(files)
        size = attacked.size(file)
        edge = min(size, max(64, size // 16))
        position = drawn.choice(
            (drawn.randrange(edge), size - 1 - drawn.randrange(edge), drawn.randrange(size))
        )
        bit = drawn.randrange(8)
        yield Damage(file, f"bit {bit} of byte {position} of {size} flipped", _flip(position, bit))
    file = drawn.choice(files)
    changes: dict[str, Callable[[bytes], bytes]] = {
        "emptied": lambda data: b"",
        "cut in half": lambda data: data[: len(data) // 2],
        "without its last byte": lambda data: data[:-1],
        "with a byte more": lambda data: data + b"\0",
        "with itself appended": lambda data: data + data,
    }
    for how in drawn.sample(sorted(changes), 2):
        yield Damage(file, how, changes[how])
    others = [other for other in files if other != file and _alike(other, file)]
    if others:
        other = drawn.choice(others)
        content = attacked.start.joinpath(other).read_bytes()
        if content != attacked.start.joinpath(file).read_bytes():
            yield Damage(file, f"replaced by {other}", lambda data: content)


def _flip(position: int, bit: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]


def _alike(one: str, other: str) -> bool:
    return re.sub(r"\d+|/[^/]+/", "#", one) == re.sub(r"\d+|/[^/]+/", "#", other) or (
        Path(one).suffix == Path(other).suffix
    )


# Tries.


class Attacked:
    """A kind of file, the folder where it is damaged, and what its commands make of whole files."""

    def __init__(self, kind: Kind, starts: "Starts") -> None:
        self.kind = kind
        self.start = starts.path(kind.start)
        self.place = starts.folder / "try"
        self.logs = starts.folder / "logs"
        found = sorted(path for path in self.start.glob(kind.files) if path.is_file())
        self.files = [path.relative_to(self.start).as_posix() for path in found if path.stat().st_size]
        if not self.files:
            raise RuntimeError(f"{kind.name}: {self.start} has no files {kind.files}")
        self.expected = self._undisturbed()
        self.said = self._said()

    def size(self, file: str) -> int:
        """Return the length of a file in bytes."""
        return (self.start / file).stat().st_size

    def tried(self, damage: Damage) -> Try:
        """Damage a file of a copy and run the commands."""
        copy_tree(self.start, self.place)
        path = self.place / damage.file
        data = path.read_bytes()
        path.unlink()  # it may be a link
        path.write_bytes(damage.change(data))
        problem, outcome = self._judge(damage.file)
        return Try(self.kind.name, f"{damage.file}: {damage.how}", problem, outcome)

    def _judge(self, file: str) -> tuple[str, str]:
        printed = []
        for words in self.kind.commands:
            ended = self._run(words)
            if ended.code not in (0, 1, 2) or "Traceback" in ended.err + ended.out:
                return f"crashed with code {ended.code}: {ended.err[-2000:]}", ""
            if ended.code:
                return self._rejection(file, ended)
            printed.append(_printed(words, ended))
        made, expected = self._made(), self.expected[1]
        other = [n for n in made.keys() | expected.keys() if n != file and made.get(n) != expected.get(n)]
        if not other and printed == self.expected[0]:
            return "", "unchanged"
        if self.kind.remade and self._said() == self.said:
            return "", "made anew"
        return f"another result: {', '.join(sorted(other)) or 'other output'}", ""

    def _said(self) -> list[str]:
        return [_said(path) for path in sorted(self.place.glob(self.kind.remade)) if self.kind.remade]

    def _rejection(self, file: str, ended: Ended) -> tuple[str, str]:
        _, *parts = Path(file).parts  # an artifact and a file in it, or the whole path
        splits = [
            ("/".join(parts[:n]).removesuffix(".parquet"), "/".join(parts[n:])) for n in range(len(parts) + 1)
        ]
        named = [file] if len(parts) > 1 else parts
        if any(n in ended.err for n in named) or any(
            a in ended.err and b in ended.err for a, b in splits if a and b
        ):
            return "", "rejected"
        if self.kind.stale and ("is stale" in ended.err or "recipe" in ended.err):
            return "", "stale"
        return f"rejected without its name: {ended.err[-500:].strip()}", ""

    def _undisturbed(self) -> tuple[list[str], dict[str, str]]:
        """Run the commands on whole files, and import the modules that they needed."""
        copy_tree(self.start, self.place)
        printed = []
        for words in self.kind.commands:
            ended = self._run(words)
            if ended.code:
                raise RuntimeError(f"capo {words} failed undisturbed: {ended.err}")
            printed.append(_printed(words, ended))
            import_all(modules(self.logs))
        return printed, self._made()

    def _run(self, words: str) -> Ended:
        arguments = [word.format(self.place) for word in words.split()]
        own = self.kind.start == "cached"
        cache = self.place / "cache" if own else self.logs.with_name("cache")
        return fork(arguments, self.logs, CAPO_SCORE_CACHE=str(int(own)), CAPO_CACHE=str(cache))

    def _made(self) -> dict[str, str]:
        folders = [path for path in sorted(self.place.iterdir()) if path.is_dir() and path.name != "cache"]
        return {f"{f.name}/{name}": digest for f in folders for name, digest in digests(f).items()}


def _said(path: Path) -> str:
    """Return the text of a page without times, or the scores of a table to four digits."""
    if path.suffix == ".parquet":
        return " ".join(f"{score:.4g}" for score in parquet.read_table(path)["score"].to_pylist())
    return re.sub(r"\b[\d.]+\s(s|min|h)\b", "", path.read_text(encoding="utf-8"))


def _printed(words: str, ended: Ended) -> str:
    """Return what a command printed for programs; the rest has times in it."""
    return ended.out if "--json" in words else ""


# Starts.


def copy_tree(source: Path, place: Path) -> None:
    """Copy a folder anew; large files, which nothing changes in place, as links."""
    shutil.rmtree(place, ignore_errors=True)

    def copy(one: str, other: str) -> None:
        small = Path(one).stat().st_size < 1 << 16 or one.endswith(".sqlite")
        (shutil.copy2 if small else os.link)(one, other)

    shutil.copytree(source, place, copy_function=copy)


class Starts:
    """Copies of the finished run in which a later part is missing, so that a command makes it again."""

    MISSING: ClassVar[dict[str, tuple[str, ...]]] = {
        "whole": (),
        "unscored": ("scores/preference",),
        "cached": ("scores/preference",),
        "unpaired": ("pairs",),
        "untrained": ("train",),
        "unevaluated": ("evaluate",),
        "unjudged": ("benchmarks/shapes/judgments/tuned", "benchmarks/shapes/results"),
        "unsummed": ("benchmarks/shapes/results",),
        "unreported": ("report",),
    }

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ground = ground(folder / "ground")

    def path(self, name: str) -> Path:
        """Return the folder of a start, which is made when it is first asked for."""
        place = self.folder / "starts" / name
        if not place.exists():
            half = place.with_name(f"half-{name}")
            copy_tree(self._ground.parent, half)
            for artifact in self.MISSING.get(name, ()):
                without(half / "run", artifact)
            if make := getattr(self, f"_{name}", None):
                make(half)
            half.rename(place)
        return place

    def _cached(self, place: Path) -> None:
        """Keep the scores of another copy, from which nothing was removed."""
        other = place.with_name("scored")
        copy_tree(place, other)
        succeed("score", "--run", str(other / "run"), CAPO_SCORE_CACHE="1", CAPO_CACHE=str(place / "cache"))
        shutil.rmtree(other)

    def _stopped(self, place: Path) -> None:
        """Kill training once its first checkpoint is there."""
        run = place / "run"
        without(run, "train")
        training = subprocess.Popen(command("train", "--run", str(run)), env=surroundings())
        while not list(run.glob("train/checkpoints/step-000002/state.json")):
            time.sleep(0.002)
            if training.poll() is not None:
                raise RuntimeError("training ended before it was killed")
        training.kill()
        training.wait()

    def _replaced(self, place: Path) -> None:
        """Replace the pairs by others, then ask for the former ones again."""
        run = place / "run"
        recipe = (run / "recipe.yaml").read_bytes()
        succeed("pair", "--run", str(run), "--set", "pairs.selection=frontier", "--force")
        (run / "recipe.yaml").write_bytes(recipe)

    def _study(self, place: Path) -> None:
        """Run a small study, and remove its runs: their records remain."""
        rows = [{"name": name, "set": {"pairs.selection": name}} for name in ("frontier", "sum")]
        recipe = str(self._ground / "recipe.yaml")
        study = {"name": "study", "title": "Study", "recipe": recipe, "seeds": [0], "rows": rows}
        (place / "study.yaml").write_text(yaml.safe_dump(study | {"against": "sum"}))
        succeed("compare", str(place / "study.yaml"), "--to", str(place / "study"))
        for run in place.glob("study/*/seed-0"):
            shutil.rmtree(run)


def without(run: Path, artifact: str) -> None:
    """Remove an artifact and its records, as a user may."""
    for path in (run / artifact, run / f"{artifact}.parquet"):
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
    for path in (run / "manifests" / artifact).parent.glob(f"{Path(artifact).name}.*"):
        path.unlink()
