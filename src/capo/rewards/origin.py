"""What each way of having a reward must tell: shipped, a function, a program, a server."""

from typing import TYPE_CHECKING, Any, Protocol

from capo.rewards.protocol import Reward

if TYPE_CHECKING:
    from capo.method.calibration import Comparison


class Origin(Protocol):
    """Where the scores of a reward section come from."""

    def identity(self) -> str:
        """What the scores depend on besides the samples. Reads files, loads no weights."""

    def comparison(self) -> "Comparison | None":
        """The comparison that the reward itself declares. Loads no weights."""

    def load(self, device: Any) -> Reward:
        """The reward, ready to score, on `device` where it is this process that scores."""
