"""The `capo` command: parse, call, print.

Nothing heavy is imported before a command needs it, so that help and completed runs are quick.
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted (and resumable).
"""

import signal
from typing import Any, NoReturn

# Each adds its commands, in the order in which help shows them.
from capo.cli import running, compare, around, rewards, data  # isort: skip
from capo.cli.app import app
from capo.cli.running import STAGES

__all__ = ["STAGES", "app", "around", "compare", "data", "main", "rewards", "running"]


def main() -> None:
    """What the `capo` command calls: SIGTERM stops it like Ctrl-C."""
    signal.signal(signal.SIGTERM, _interrupt)
    app(prog_name="capo")


def _interrupt(signum: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt
