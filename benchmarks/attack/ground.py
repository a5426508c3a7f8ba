"""A small finished run to attack, by processes and files alone."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"

SETTINGS = (
    "prompts.count=12",
    "generate.samples_per_prompt=4",
    "generate.num_inference_steps=2",
    "generate.shard_prompts=4",
    "train.steps=4",
    "train.global_batch_size=4",
    "train.warmup_steps=1",
    "train.checkpoint_every=2",
    "train.validate_every=2",
    "train.validation_prompts.count=4",
    "train.validation_samples=2",
    "train.max_error_growth=1000",
    "evaluate.prompts.count=8",
    "evaluate.samples_per_prompt=2",
    "benchmarks=[{name: shapes, count: 8, images: 2}]",
)
"""Recipe `shapes`, with every stage and several shards and checkpoints, in half a minute on one core."""

WALL_CLOCK = re.compile(rb"<(\w+)[^>]* data-wall-clock>.*?</\1>", re.DOTALL)
LIMIT = 600
"""Seconds that no command of this size needs; a command that takes longer hangs."""


def recipe_arguments(run: Path) -> list[str]:
    """Return the arguments of `capo` that make the run, or resume it."""
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    return ["run", "shapes", "--run", str(run), *settings]


def command(*arguments: str) -> list[str]:
    """Return the command line of a `capo` command."""
    return [sys.executable, "-m", "capo", *arguments]


def surroundings(**environment: str) -> dict[str, str]:
    """Return the environment of a command: one thread, no network, no scores from former runs."""
    fixed = {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, "CAPO_SCORE_CACHE": "0", **fixed, **environment}


def capo(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run a `capo` command as a process; return its exit code, output and error output."""
    done = subprocess.run(
        command(*map(str, arguments)),
        env=surroundings(**environment),
        capture_output=True,
        text=True,
        errors="backslashreplace",
        timeout=LIMIT,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def succeed(*arguments: str, **environment: str) -> str:
    """Run a `capo` command that must succeed; return its output."""
    code, out, err = capo(*arguments, **environment)
    if code:
        raise RuntimeError(f"capo {' '.join(map(str, arguments))}: exit code {code}\n{err}")
    return out


def ground(folder: Path) -> Path:
    """Make `folder/run`, a finished run, and `folder/people`, a human study of it with votes and a report.

    What exists already is kept, so that a stopped attack can be repeated.
    """
    run, study = folder / "run", folder / "people"
    if not (study / "report" / "results.json").exists():
        succeed(*recipe_arguments(run))
        size = ("--prompts", "4", "--raters", "2", "--catches", "2")
        succeed("people", "make", "--run", str(run), "--to", str(study), *size)
        succeed("people", "simulate", str(study), "--to", str(folder / "votes"))
        succeed("people", "add", str(study), *map(str, sorted((folder / "votes").iterdir())))
        succeed("people", "report", str(study))
    return run


def digests(run: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a run by its relative path, without what depends on the clock.

    docs/reference/run-directory.md lists that: timings, the lock, times in the report and the digest of the
    report in its manifest, records of files and unfinished files that a kill leaves, logs of workers, and
    what was replaced.
    """
    found = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        left_out = name.startswith((".lock", ".shares/", "logs/", "replaced/"))
        left_out |= name.endswith(".written.jsonl") or path.name.startswith(".capo-tmp-")
        if path.is_file() and not left_out and name != "timings.jsonl":
            found[name] = hashlib.sha256(_without_times(name, path.read_bytes())).hexdigest()
    return found


def _without_times(name: str, data: bytes) -> bytes:
    if name == "report/index.html":
        return WALL_CLOCK.sub(b"", data)
    if name == "manifests/report.json":
        return re.sub(rb'"(bytes|blake2b)": [^,\n]+', b"", data)
    return data
