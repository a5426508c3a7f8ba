"""A part of the embedded checkpoints while it is being built."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BuildPart:
    """How a part is built."""

    name: str
    folder: Path
    """The folder for state in progress."""
    device: str
    scale: float
    """Multiplies data and steps; 1 builds the shipped checkpoints."""

    def scaled(self, amount: int) -> int:
        """Return the number of examples or steps at this scale."""
        return round(amount * self.scale)
