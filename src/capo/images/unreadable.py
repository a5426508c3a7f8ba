"""Images that cannot be read: some are skipped, too many are an error."""

from collections.abc import Sequence

from capo.engine.progress import say
from capo.images.entries import ImagesError

REASONS_SHOWN = 3


class UnreadableImages:
    """Counts images that cannot be read, and raises once their share is too large."""

    def __init__(self, total: int, limit: float) -> None:
        """`limit` is the largest share of all `total` images, `pairs.max_skipped`."""
        self.total, self.count = total, 0
        self._limit = limit
        self._reasons: list[str] = []

    def add(self, count: int, reasons: Sequence[str] = ()) -> None:
        """Count some, with the first reasons if known; raises `ImagesError` once they are too many."""
        self.count += count
        self._reasons += reasons
        if self.count <= self._limit * self.total:
            return
        raise ImagesError(self._listed(f", more than pairs.max_skipped = {self._limit:g} allows"))

    def report(self) -> None:
        """Print how many were skipped, with the first reasons that are known, if there are any."""
        if self.count:
            say(self._listed(" and were skipped"))

    def _listed(self, consequence: str) -> str:
        first = [f"  {reason}" for reason in self._reasons[:REASONS_SHOWN]]
        counted = f"{self.count} of {self.total} images cannot be read{consequence}"
        return "\n".join([f"{counted}; the first:" if first else counted, *first])
