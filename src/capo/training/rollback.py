"""Going on from a healthy checkpoint, at half the learning rate, where training diverged."""

from collections.abc import Sequence

from capo.store import Artifact
from capo.training.log import Row

FILE = "roll-backs.jsonl"
LIMIT = 3
"""Roll-backs before training gives up, at an eighth of its learning rate."""


class RollBacks:
    """What was rolled back, and why; it decides the learning rate of the steps that come again.

        roll-backs.jsonl    a line each: `to`, `reason`, and the rows that no longer count

    A step's rate is a function of this file and the step, so that a resumed run decides as the
    uninterrupted one did.
    """

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact
        self._rows: list[Row] = artifact.read_json_lines(FILE) if artifact.has(FILE) else []

    def __len__(self) -> int:
        return len(self._rows)

    def halvings(self, step: int) -> int:
        """How often the learning rate of `step` is halved."""
        return sum(row["to"] < step for row in self._rows)

    def tried(self, step: int) -> bool:
        """Whether training has gone back to `step` before, in vain."""
        return any(row["to"] == step for row in self._rows)

    def add(self, to: int, reason: str, metrics: Sequence[Row], validations: Sequence[Row]) -> None:
        """Keep that training went back `to` a step, and the rows logged after it."""
        dropped = {
            name: [row for row in rows if row["step"] > to]
            for name, rows in (("metrics", metrics), ("validations", validations))
        }
        self._rows.append({"to": to, "reason": reason, **dropped})
        self._artifact.write_json_lines(FILE, self._rows)
