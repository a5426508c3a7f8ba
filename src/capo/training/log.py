"""The records of a training run: `metrics.jsonl` and `validation.jsonl`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from capo.engine.ranks import Group
from capo.store import Artifact
from capo.training.rollback import RollBacks

Row = dict[str, Any]
"""`step` and numbers by name; None for a number that does not exist."""

RECENT_STEPS = 20
"""Number of logged steps that `recent_mean` averages over, since single steps are noisy."""


class Records:
    """Everything a run records while it trains. All processes hold the rows; the main process writes them."""

    def __init__(self, artifact: Artifact) -> None:
        """Read what an interrupted run recorded."""
        self.metrics = Log(artifact, "metrics.jsonl")
        self.validations = Log(artifact, "validation.jsonl")
        self.roll_backs = RollBacks(artifact)


class Log:
    """A JSON Lines file with one row per step; rows are on disk after `flush`, which adds the new ones."""

    def __init__(self, artifact: Artifact, name: str) -> None:
        self._artifact = artifact
        self._name = name
        self.rows: list[Row] = artifact.read_json_lines(name) if artifact.has(name) else []
        self._on_disk = len(self.rows)
        """Rows that the file has; 0 if it has others too, or does not exist."""

    def rewind(self, step: int) -> None:
        """Drop the rows after `step`, which are about to be made again."""
        self.rows = [row for row in self.rows if row["step"] <= step]
        if len(self.rows) < self._on_disk:
            self._on_disk = 0

    def add(self, row: Row) -> None:
        """Append a row."""
        self.rows.append(row)

    def flush(self) -> None:
        """Write the rows that are not on disk, in the main process."""
        new = self.rows[self._on_disk :]
        if Group().is_main:
            write = self._artifact.append_json_lines if self._on_disk else self._artifact.write_json_lines
            if new or not self._on_disk:
                write(self._name, new)
        self._on_disk = len(self.rows)


def best_row(rows: Sequence[Row]) -> Row | None:
    """Return the validation with the highest mean win-rate by the training rewards, the first of ties.

    Step 0 is the base model and never the best.
    """
    candidates = [row for row in rows if row["step"] > 0]
    return max(candidates, key=lambda row: float(row["win_rate"]), default=None)


def recent_mean(metrics: Sequence[Row], name: str, step: int) -> float:
    """Return the mean of a measure over the last logged steps up to `step`; 0 before the first."""
    values = [row[name] for row in metrics if row["step"] <= step][-RECENT_STEPS:]
    return float(np.mean(values)) if values else 0.0
