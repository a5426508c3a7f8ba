"""What the images of a run are for, and the artifacts that have to be done before they are all there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from capo.store import Run

Purpose = Literal["samples", "validation", "evaluation"]


@dataclass(frozen=True)
class Source:
    """Where the images for a purpose come from."""

    artifacts: tuple[str, ...]
    command: str
    """the command that makes the last of them"""

    def missing(self, run: "Run") -> list[str]:
        """Return the artifacts that are not done."""
        return [name for name in self.artifacts if not run.artifact(name).done]


SOURCES: dict[Purpose, Source] = {
    "samples": Source(("samples",), "generate"),
    "validation": Source(("validation", "train"), "train"),
    "evaluation": Source(("baseline", "evaluate"), "evaluate"),
}


def made(run: "Run") -> Sequence[Purpose]:
    """Return the purposes of which a run has all images."""
    return [purpose for purpose, source in SOURCES.items() if not source.missing(run)]
