"""The `capo` command: parse arguments, call the library, print.

Commands import what they need when they run, so that help and finished runs stay fast.
Exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted (and resumable), 141 output pipe closed.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

# Every module adds its commands to the app; the order is the order in `capo --help`.
from capo.cli import run, check, rehearse, status, clean, tune, compare, soup, export, push  # isort: skip
from capo.cli import people, people_votes, benchmark, plan, bench, calibration  # isort: skip
from capo.cli import rewards, data, images, recipes, shapes  # isort: skip
from capo.cli.app import app
from capo.cli.run import STAGES

__all__ = [
    "STAGES",
    "app",
    "bench",
    "benchmark",
    "calibration",
    "check",
    "clean",
    "compare",
    "data",
    "export",
    "images",
    "main",
    "people",
    "people_votes",
    "plan",
    "push",
    "recipes",
    "rehearse",
    "rewards",
    "run",
    "shapes",
    "soup",
    "status",
    "tune",
]


def main() -> None:
    """Run the `capo` command. SIGTERM acts like Ctrl-C; a closed output pipe ends it silently."""
    signal.signal(signal.SIGTERM, _interrupt)
    if not _in_a_folder():
        sys.exit("Error: the current folder was removed; change to one that exists")
    try:
        app(prog_name="capo")
    except SystemExit as leaving:
        # For example `capo recipes | head -1`; typer and rich both exit with 1 then.
        if isinstance(leaving.__context__, BrokenPipeError):
            _discard_output()
            sys.exit(128 + signal.SIGPIPE)
        raise


def _in_a_folder() -> bool:
    try:
        return bool(Path.cwd())
    except FileNotFoundError:
        return False


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _discard_output() -> None:
    """Redirect output to the null device, so that Python reports no error for buffered text at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(null, stream.fileno())
