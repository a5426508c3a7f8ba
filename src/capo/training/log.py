"""The records of a training run: `metrics.jsonl`, `validation.jsonl`, and optionally TensorBoard."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from capo.engine.ranks import Group
from capo.store import Artifact
from capo.training.rollback import RollBacks

Row = dict[str, Any]
"""`step` and numbers by name; None for a number that does not exist."""


class Records:
    """Everything a run records while it trains. All processes hold the rows; the main process writes them."""

    def __init__(self, artifact: Artifact, board: "Board | None" = None) -> None:
        """Read what an interrupted run recorded."""
        self.metrics = Log(artifact, "metrics.jsonl", board)
        self.validations = Log(artifact, "validation.jsonl", board)
        self.roll_backs = RollBacks(artifact)


class Log:
    """A JSON Lines file with one row per step; rows are on disk after `flush`."""

    def __init__(self, artifact: Artifact, name: str, board: "Board | None") -> None:
        self._artifact = artifact
        self._name = name
        self._board = board
        self.rows: list[Row] = artifact.read_json_lines(name) if artifact.has(name) else []

    def rewind(self, step: int) -> None:
        """Drop the rows after `step`, which are about to be made again."""
        self.rows = [row for row in self.rows if row["step"] <= step]

    def add(self, row: Row) -> None:
        """Append a row."""
        self.rows.append(row)
        if self._board is not None:
            self._board.add(row)

    def flush(self) -> None:
        """Write the file, in the main process."""
        if Group().is_main:
            self._artifact.write_json_lines(self._name, self.rows)


class Board:
    """A live view of the numbers in TensorBoard; not part of the results."""

    def __init__(self, folder: Path, from_step: int) -> None:
        """Hide what an interrupted run had logged from `from_step` on.

        Raises `ImportError` with the command to install TensorBoard if it is missing.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "train.tensorboard: TensorBoard is not installed; pip install 'capo-diffusion[tensorboard]', "
                "or set it to false"
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=from_step)

    def add(self, row: Row) -> None:
        """Plot the numbers of a row."""
        for name, value in row.items():
            if name != "step" and value is not None:
                self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()


def best_row(rows: Sequence[Row]) -> Row | None:
    """Return the validation with the highest mean win-rate by the training rewards, the first of ties.

    Step 0 is the base model and never the best.
    """
    candidates = [row for row in rows if row["step"] > 0]
    return max(candidates, key=lambda row: float(row["win_rate"]), default=None)
