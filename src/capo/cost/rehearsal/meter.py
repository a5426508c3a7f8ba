"""Measure the parts of a run while it runs: seconds and peak memory, from the progress it reports."""

import sys
import time
from dataclasses import dataclass

from capo.engine.progress import Bar


@dataclass
class MeasuredPart:
    """One kind of work, such as one reward's scores in one stage."""

    name: str
    """Description of its progress bar."""
    unit: str
    loading_seconds: float = 0.0
    """Time up to the first unit of every bar: loading models, and the first call."""
    seconds: float = 0.0
    """Time of all other units."""
    units: int = 0
    loads: int = 0
    """Bars that counted units; each of them loads what it needs."""
    peak_bytes: int = 0
    """Most memory that was in use: of the GPU if there is one, else of this process."""

    @property
    def seconds_per_unit(self) -> float | None:
        """Seconds for one unit without loading; None if no bar had a second one."""
        return self.seconds / (self.units - self.loads) if self.units > self.loads else None


class Meter:
    """A listener to progress that gives every moment to the part that reports next.

    Parts may be nested or take turns: a validation inside training, or rewards that share a pass.
    """

    def __init__(self) -> None:
        self.parts: dict[str, MeasuredPart] = {}
        self._warm: set[int] = set()
        """Bars that have counted a unit."""
        self._last = time.monotonic()

    def __call__(self, bar: Bar, n: int) -> None:
        if bar.done == 0 and n == 0:
            self._warm.discard(id(bar))  # a new bar may have the id of one that is gone
        part = self.parts.setdefault(bar.description, MeasuredPart(bar.description, bar.unit))
        now = time.monotonic()
        passed, self._last = now - self._last, now
        if id(bar) in self._warm:
            part.seconds += passed
        else:
            part.loading_seconds += passed
        if n and id(bar) not in self._warm:
            self._warm.add(id(bar))
            part.loads += 1
        part.units += n
        part.peak_bytes = max(part.peak_bytes, _peak_memory())


def _peak_memory() -> int:
    """The most bytes in use on the GPU since the last call; without a GPU, those of this process now."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        peak: int = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return peak
    import psutil

    resident: int = psutil.Process().memory_info().rss
    return resident
