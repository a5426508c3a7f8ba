"""The `capo` command: parse, call, print.

Nothing heavy is imported before a command needs it, so that help and completed runs are quick.
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted (and resumable),
141 nobody reads on.
"""

import os
import signal
import sys
from typing import Any, NoReturn

# Each adds its commands, in the order in which help shows them.
from capo.cli import running, compare, around, rewards, data  # isort: skip
from capo.cli.app import app
from capo.cli.running import STAGES

__all__ = ["STAGES", "app", "around", "compare", "data", "main", "rewards", "running"]


def main() -> None:
    """What the `capo` command calls: SIGTERM stops it like Ctrl-C, and a closed pipe without a word."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(prog_name="capo")
    except SystemExit as leaving:
        # As after `| head`. Both typer and rich leave with 1 then.
        if isinstance(leaving.__context__, BrokenPipeError):
            _drop_output()
            sys.exit(128 + signal.SIGPIPE)
        raise


def _interrupt(signum: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt


def _drop_output() -> None:
    """What is still buffered goes nowhere: Python would complain of it at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(null, stream.fileno())
