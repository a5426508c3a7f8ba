"""The basic types of the rewards room: a loaded reward, the source it comes from, scores and errors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from capo.store.check import Finding

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from capo.method.calibration import Comparison


class RewardError(ValueError):
    """A reward that cannot be loaded or breaks the protocol. The message says why and how to fix it."""


class TransientError(RewardError):
    """A reward that is temporarily unavailable after all retries, such as a server that is down.

    The images are not at fault, so none of them is set aside.
    """


class RewardMemoryError(RewardError):
    """A reward ran out of memory while it was loaded or while it scored."""


class ProtocolError(RewardError):
    """A reward answered with something that the protocol does not allow. Such a reward is not retried."""


class RewardTimeoutError(RewardError):
    """A reward gave no answer within its timeout."""


class Reward(Protocol):
    """A loaded reward model."""

    @property
    def name(self) -> str:
        """Name in tables and paths."""

    @property
    def comparison(self) -> "Comparison | None":
        """Comparison that turns two raw scores into a win probability. The recipe can override it."""

    def score(self, images: "list[Image.Image]", prompts: list[str]) -> "np.ndarray":
        """Return raw scores, float64 [n], for n images and their n prompts. Higher is better.

        NaN marks an image that has no score. Such an image is set aside; it never counts as 0.
        """


@runtime_checkable
class Truncating(Protocol):
    """A reward that reads only the beginning of a long prompt and can report which prompts it cut."""

    def truncated(self, prompts: list[str]) -> Sequence[bool | None]:
        """Return for each scored prompt whether the model read only its beginning; None if unknown."""


@runtime_checkable
class TimeLimited(Protocol):
    """A reward that must score a batch within a time limit."""

    @property
    def timeout(self) -> float:
        """Seconds for one batch."""


@dataclass(frozen=True)
class Scored:
    """The score of one image, or the reason it has none."""

    score: float | None
    error: str | None = None
    truncated: bool | None = None
    """True if the reward read only the beginning of the prompt, None if the reward does not report it."""


class RewardSource(Protocol):
    """The origin of a reward: shipped weights, a function, a program or a server."""

    def identity(self) -> str:
        """Return everything the scores depend on apart from the samples. Loads no weights."""

    def comparison(self) -> "Comparison | None":
        """Return the comparison that the reward declares, or None. Loads no weights."""

    def check(self) -> Iterator[Finding]:
        """Raise, or yield what is wrong, if the reward could not be loaded here. Loads no weights."""

    def load(self, device: Any) -> Reward:
        """Return the reward, ready to score. `device` applies only to rewards that run in this process."""
