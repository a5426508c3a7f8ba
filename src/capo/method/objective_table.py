"""The training objectives by name: the one place that lists them.

To add an objective, write its loss in `objective` and add one entry here. The recipe accepts the
name, training uses the loss, and the report and the documentation describe it from the entry.

This module does not import torch, so that reading a recipe stays fast.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Objective:
    """A loss on the margin of a pair, and what the other parts need to know about it."""

    path: str
    """The loss as `module:function`, imported on first use: one value per pair, from the margin `[B]`
    and, with `uses_delta_reward`, ΔR `[B]`."""
    formula: str
    """The loss of one pair in u, the margin, and ΔR."""
    source: str
    """The equation of the paper."""
    uses_delta_reward: bool
    """True when the loss reads ΔR and therefore learns correctly from pairs with ΔR <= 0. Other
    objectives would learn these pairs in reverse, so training drops them by default."""

    def loss(self, margin: "Tensor", delta_reward: "Tensor") -> "Tensor":
        """The loss `[B]` of pairs with these margins `[B]` and ΔR `[B]`."""
        function: Callable[..., Tensor] = resolve_name(self.path)
        return function(margin, delta_reward) if self.uses_delta_reward else function(margin)


OBJECTIVES = {
    "capo": Objective("capo.method.objective:capo_loss", "(ΔR − u)²", "Eq. 8", uses_delta_reward=True),
    "ipo": Objective("capo.method.objective:ipo_loss", "(1 − u)²", "Eq. 22", uses_delta_reward=False),
    "dpo": Objective("capo.method.objective:dpo_loss", "−log σ(u)", "Eq. 22", uses_delta_reward=False),
}
