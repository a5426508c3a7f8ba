"""Roll-backs: training that diverged continues from a healthy checkpoint at half the learning rate."""

from collections.abc import Sequence
from typing import Any

from capo.engine.ranks import Group
from capo.store import Artifact

FILE = "roll-backs.jsonl"
LIMIT = 3
"""Roll-backs before training gives up, at an eighth of its learning rate."""


class RollBacks:
    """The roll-backs so far, which decide the learning rate of the repeated steps.

        roll-backs.jsonl    one line per roll-back: `to`, `reason`, and the rows that no longer count

    A step's learning rate is a function of this file and the step, so a resumed run decides as an
    uninterrupted one.
    """

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        self._rows: list[dict[str, Any]] = artifact.read_json_lines(FILE) if artifact.has(FILE) else []

    def __len__(self) -> int:
        return len(self._rows)

    def halvings(self, step: int) -> int:
        """Return how often the learning rate of `step` is halved."""
        return sum(row["to"] < step for row in self._rows)

    def tried(self, step: int) -> bool:
        """Report whether training has already returned to `step`."""
        return any(row["to"] == step for row in self._rows)

    def add(
        self,
        to: int,
        reason: str,
        metrics: Sequence[dict[str, Any]],
        validations: Sequence[dict[str, Any]],
    ) -> None:
        """Record, in the main process on disk, a return to step `to` and the rows logged after it."""
        dropped = {
            name: [row for row in rows if row["step"] > to]
            for name, rows in (("metrics", metrics), ("validations", validations))
        }
        self._rows.append({"to": to, "reason": reason, **dropped})
        if Group().is_main:
            self._artifact.write_json_lines(FILE, self._rows)
