"""The training objectives by name: the one place that lists them.

To add an objective, write its loss in `objective` and add one entry here. The recipe accepts the
name, training uses the loss, and the report and the documentation describe it from the entry.

This module does not import torch, so that reading a recipe stays fast.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Objective:
    """A loss on the margin of a pair, and what other parts need to know about it."""

    path: str
    """The loss as `module:function`, imported on first use. It takes the margins `[B]` and, with
    `uses_delta_reward`, ΔR `[B]`, and returns one value per pair."""
    formula: str
    """The loss of one pair in u, the margin, and ΔR."""
    source: str
    """The equation of the paper."""
    uses_delta_reward: bool
    """True when the loss reads ΔR, so that it also learns correctly from pairs with ΔR <= 0. Other
    objectives would learn these pairs in reverse, so training drops them by default."""


OBJECTIVES = {
    "capo": Objective("capo.method.objective:capo_loss", "(ΔR − u)²", "Eq. 8", uses_delta_reward=True),
    "ipo": Objective("capo.method.objective:ipo_loss", "(1 − u)²", "Eq. 22", uses_delta_reward=False),
    "dpo": Objective("capo.method.objective:dpo_loss", "−log σ(u)", "Eq. 22", uses_delta_reward=False),
}
