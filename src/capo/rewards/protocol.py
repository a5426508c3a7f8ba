"""What a reward is to the rest of the system."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from capo.method.calibration import Comparison


class RewardError(ValueError):
    """A reward that cannot be loaded or does not keep to the protocol; says what and the fix."""


class TransientError(RewardError):
    """A reward that cannot answer for now, as a server that is away, after it was asked repeatedly.

    Nothing is wrong with the images: none of them is set aside for it.
    """


class MemoryShortError(RewardError):
    """Memory ran out while a reward was loaded or scored."""


class Reward(Protocol):
    """A loaded reward model."""

    @property
    def name(self) -> str:
        """Its name in tables and paths."""

    @property
    def comparison(self) -> "Comparison | None":
        """How two of its raw scores become a win probability, unless the recipe says otherwise."""

    def score(self, images: "list[Image.Image]", prompts: list[str]) -> "np.ndarray":
        """Raw scores, float64 [n], higher is better, for n images each with its prompt.

        NaN means that there is no score for that image; it is set aside, never counted as 0.
        """


@runtime_checkable
class Truncating(Protocol):
    """A reward that reads only the beginning of a long prompt, and can tell of which."""

    def truncated(self, prompts: list[str]) -> Sequence[bool | None]:
        """Whether each prompt, once it was scored, was longer than what the model reads; None: unknown."""


@dataclass(frozen=True)
class Scored:
    """The score of one image, or why there is none."""

    score: float | None
    error: str | None = None
    truncated: bool | None = None
    """Whether the reward read only the beginning of the prompt; None when it does not tell."""
