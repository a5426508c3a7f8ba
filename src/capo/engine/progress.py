"""Progress on stderr: a live bar on a terminal, an occasional plain line anywhere else.

`CAPO_QUIET=1` in the environment turns it off; `capo --json` sets that.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from capo.engine.plain_text import plain_text

PLAIN_INTERVAL = 10.0
"""Seconds between two lines without a terminal."""


def say(text: str) -> None:
    """Print one line to stderr, as plain text, unless progress is turned off."""
    if not silenced():
        print(plain_text(text), file=sys.stderr, flush=True)


@contextmanager
def progress(description: str, total: int, unit: str = "") -> "Iterator[Bar]":
    """Show the progress of work: `with progress("generate", 192, "prompts") as bar: bar.advance(16)`."""
    bar: Bar
    if silenced():
        bar = Bar(description, total, unit)
    elif sys.stderr.isatty():
        bar = _TerminalBar(description, total, unit)
    else:
        bar = _PlainBar(description, total, unit)
    finished = False
    try:
        yield bar
        finished = True
    finally:
        bar._tell(0)
        bar.close(finished)


Listener = Callable[["Bar", int], None]
"""Receives a bar and the units that it has just counted: 0 when it opens or closes, and for resumed ones."""

_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call `listener` for all bars of this process, in the order of their work."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


class Bar:
    """Counts work without showing it."""

    def __init__(self, description: str, total: int, unit: str) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = 0
        self.trailer = ""
        self._fresh = 0
        self._started = time.monotonic()
        self._tell(0)

    def advance(self, n: int = 1, *, resumed: bool = False) -> None:
        """Count `n` units; `resumed` ones were done before, so they do not count toward the speed."""
        self.done += n
        if not resumed:
            self._fresh += n
        self._tell(0 if resumed else n)
        self.show()

    def note(self, text: str) -> None:
        """Replace the trailing text, such as the current loss."""
        self.trailer = text
        self.show()

    def remaining(self) -> float | None:
        """Return the seconds left at the speed so far; None before the first unit."""
        if not self._fresh:
            return None
        return (time.monotonic() - self._started) / self._fresh * max(self.total - self.done, 0)

    def _tell(self, n: int) -> None:
        for listener in _listeners:
            listener(self, n)

    def show(self) -> None:
        """Redraw."""

    def close(self, finished: bool) -> None:
        """End the display; `finished` is False if the work ended by an exception."""


class _PlainBar(Bar):
    def __init__(self, description: str, total: int, unit: str) -> None:
        super().__init__(description, total, unit)
        self._shown = self._started

    def show(self) -> None:
        if time.monotonic() - self._shown >= PLAIN_INTERVAL:
            self._shown = time.monotonic()
            left = self.remaining()
            self._print("" if left is None else f", {_clock(left)} left")

    def close(self, finished: bool) -> None:
        took = _clock(time.monotonic() - self._started)
        self._print(f", done in {took}" if finished else f", stopped after {took}")

    def _print(self, state: str) -> None:
        count = f"{self.done}/{self.total} {self.unit}".rstrip()
        say(f"{self.description}: {count}{state}{'; ' + self.trailer if self.trailer else ''}")


class _TerminalBar(Bar):
    display: Any = None
    """The display that all open bars share."""
    open_bars = 0

    def __init__(self, description: str, total: int, unit: str) -> None:
        super().__init__(description, total, unit)
        if not _TerminalBar.open_bars:
            _TerminalBar.display = _rich_progress()
            _TerminalBar.display.start()
        _TerminalBar.open_bars += 1
        self._task = self.display.add_task(description, total=total, unit=unit, trailer="", bar=self)

    def show(self) -> None:
        self.display.update(self._task, completed=self.done, trailer=self.trailer)

    def close(self, finished: bool) -> None:
        _TerminalBar.open_bars -= 1
        self.display.stop_task(self._task)
        if not _TerminalBar.open_bars:
            self.display.stop()


def _rich_progress() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    class Remaining(ProgressColumn):
        def render(self, task: Any) -> Text:
            left = task.fields["bar"].remaining()
            return Text("" if left is None or task.finished else f"{_clock(left)} left", "cyan")

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} {task.fields[unit]}"),
        TimeElapsedColumn(),
        Remaining(),
        TextColumn("{task.fields[trailer]}", markup=False),
        console=Console(stderr=True),
    )


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def silenced() -> bool:
    """Report whether progress is turned off."""
    return os.environ.get("CAPO_QUIET", "") not in ("", "0")
