"""What a training run records: `metrics.jsonl` and `validation.jsonl`, and TensorBoard if wanted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from capo.store import Artifact

Row = dict[str, Any]
"""`step` and numbers by name, None where there is none."""


class Log:
    """One JSON Lines file, a row a step; on disk after `flush`, and rewound when a run resumes."""

    def __init__(self, artifact: Artifact, name: str, board: "Board | None") -> None:
        self._artifact = artifact
        self._name = name
        self._board = board
        self.rows: list[Row] = artifact.read_json_lines(name) if artifact.has(name) else []

    def rewind(self, step: int) -> None:
        """Forget what came after `step`: it is about to be done again."""
        self.rows = [row for row in self.rows if row["step"] <= step]

    def add(self, row: Row) -> None:
        self.rows.append(row)
        if self._board is not None:
            self._board.add(row)

    def flush(self) -> None:
        self._artifact.write_json_lines(self._name, self.rows)


class Board:
    """A live view of the numbers in TensorBoard; no part of the results."""

    def __init__(self, folder: Path, from_step: int) -> None:
        """Raises `ImportError` saying what to install when TensorBoard is not there."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "train.tensorboard: TensorBoard is not installed; pip install 'capo-diffusion[tensorboard]', "
                "or set it to false"
            ) from error
        # Hides what an interrupted run had shown of the steps that come again.
        self._writer = SummaryWriter(str(folder), purge_step=from_step)

    def add(self, row: Row) -> None:
        for name, value in row.items():
            if name != "step" and value is not None:
                self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        self._writer.close()


def best_row(rows: Sequence[Row]) -> Row | None:
    """The validation with the highest mean win-rate by the training rewards, the first of equals.

    Step 0 is the base model itself, and no candidate.
    """
    candidates = [row for row in rows if row["step"] > 0]
    return max(candidates, key=lambda row: float(row["win_rate"]), default=None)
