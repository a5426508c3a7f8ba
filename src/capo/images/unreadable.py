"""Images that cannot be read: some are skipped, too many are an error."""

from collections.abc import Sequence

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
        first = [f"  {reason}" for reason in self._reasons[:REASONS_SHOWN]]
        message = (
            f"{self.count} of {self.total} images cannot be read, more than pairs.max_skipped = "
            f"{self._limit:g} allows{'; the first:' if first else ''}"
        )
        raise ImagesError("\n".join([message, *first]))
