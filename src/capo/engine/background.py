"""Run work in a thread while the caller continues."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self


class Background:
    """Does work in one thread, in order. Work that fails cancels what was waiting for it.

    The error is raised by `wait`, by `check`, and when the context ends, which waits for all work.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, name)
        self._last: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)
        if error is None:  # else the work's own failure would hide it
            self.wait()

    def submit(self, work: Callable[[], None]) -> None:
        """Start `work` once all earlier work succeeded."""
        earlier = self._last

        def after_earlier() -> None:
            if earlier is not None:
                earlier.result()
            work()

        self._last = self._thread.submit(after_earlier)

    @property
    def busy(self) -> bool:
        """Report whether work is in progress."""
        return self._last is not None and not self._last.done()

    def check(self) -> None:
        """Raise the error of finished work, without waiting for the rest."""
        if not self.busy:
            self.wait()

    def wait(self) -> None:
        """Wait for all work; raises the error of the first that failed, once."""
        last, self._last = self._last, None
        if last is not None:
            last.result()
