"""Heads of aesthetic predictors: linear layers with nothing between them, on a unit embedding.

With no activation between, such a head is one affine map; it is folded into that in float64.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from capo.rewards.protocol import RewardError

if TYPE_CHECKING:
    from torch import Tensor


class AffineHead:
    """`embedding · weight + bias`, from the layers `0.weight`, `0.bias`, `2.weight` … of `weights`."""

    def __init__(self, weights: "dict[str, Tensor]", layers: tuple[int, ...], origin: str) -> None:
        """Raises `RewardError` unless there are exactly these `layers`, and one number comes out of them."""
        wanted = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
        if set(weights) != wanted:
            raise RewardError(
                f"{origin}: its head has the weights {', '.join(sorted(weights)) or 'none'}, not "
                f"{', '.join(sorted(wanted))}"
            )
        first, *rest = ((weights[f"{i}.weight"].double(), weights[f"{i}.bias"].double()) for i in layers)
        weight, bias = first
        try:
            for next_weight, next_bias in rest:
                weight, bias = next_weight @ weight, next_weight @ bias + next_bias
        except RuntimeError as error:
            raise RewardError(f"{origin}: the layers of its head do not fit together: {error}") from error
        if len(weight) != 1 or not (weight.isfinite().all() and bias.isfinite().all()):
            raise RewardError(f"{origin}: its head must give one finite number, it gives {len(weight)}")
        self._weight, self._bias = weight[0], bias[0]

    def __call__(self, embeddings: "Tensor") -> "Tensor":
        """float64 [n] on the CPU, of embeddings [n, d] that need not have length 1."""
        embeddings = embeddings.cpu().double()  # not every device has float64
        return embeddings @ self._weight / embeddings.norm(dim=-1) + self._bias


def split_head(weights: "dict[str, Tensor]", prefix: str) -> "tuple[dict[str, Tensor], dict[str, Tensor]]":
    """The weights whose names begin with `prefix`, without it, and all others, which are the tower's."""
    head = {name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)}
    return head, {name: t for name, t in weights.items() if not name.startswith(prefix)}


def tower_place(checkpoint: str, processor: str | None, usual: str) -> str:
    """Where the tower's configuration is: with `processor`, else in the folder itself, else in `usual`."""
    own = Path(checkpoint, "config.json").is_file()
    return processor or (checkpoint if own else usual)
