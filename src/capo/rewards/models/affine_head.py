"""Heads of aesthetic predictors: linear layers on a unit embedding, with no activation in between.

Such layers are one affine map, into which they are folded in float64.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from capo.rewards.protocol import RewardError

if TYPE_CHECKING:
    from torch import Tensor


class AffineHead:
    """`embedding · weight + bias`, folded from the layers `0.weight`, `0.bias`, `2.weight` … of `weights`."""

    def __init__(self, weights: "dict[str, Tensor]", layers: tuple[int, ...], location: str) -> None:
        """Raises `RewardError` unless `weights` are exactly these `layers` and end in one output."""
        wanted = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
        if set(weights) != wanted:
            raise RewardError(
                f"{location}: expected the head weights {', '.join(sorted(wanted))}, "
                f"got {', '.join(sorted(weights)) or 'none'}"
            )
        first, *rest = ((weights[f"{i}.weight"].double(), weights[f"{i}.bias"].double()) for i in layers)
        weight, bias = first
        try:
            for next_weight, next_bias in rest:
                weight, bias = next_weight @ weight, next_weight @ bias + next_bias
        except RuntimeError as error:
            raise RewardError(f"{location}: the layers of its head do not fit together: {error}") from error
        if len(weight) != 1 or not (weight.isfinite().all() and bias.isfinite().all()):
            raise RewardError(
                f"{location}: its head must have one output and finite weights; it has {len(weight)} outputs"
            )
        self._weight, self._bias = weight[0], bias[0]

    def __call__(self, embeddings: "Tensor") -> "Tensor":
        """Return scores, float64 [n] on the CPU, for embeddings [n, d], which need not have unit length."""
        embeddings = embeddings.cpu().double()  # some devices have no float64
        return embeddings @ self._weight / embeddings.norm(dim=-1) + self._bias


def split_head(weights: "dict[str, Tensor]", prefix: str) -> "tuple[dict[str, Tensor], dict[str, Tensor]]":
    """Return the head (names that start with `prefix`, which is removed) and the tower (all others)."""
    head = {name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)}
    return head, {name: t for name, t in weights.items() if not name.startswith(prefix)}


def tower_location(checkpoint: str, processor: str | None, default: str) -> str:
    """Return the location of the tower: `processor`, else `checkpoint` if it has a config, else `default`."""
    own = Path(checkpoint, "config.json").is_file()
    return processor or (checkpoint if own else default)
