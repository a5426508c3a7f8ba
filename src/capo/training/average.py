"""An exponential moving average of the trained weights, computed by diffusers' `EMAModel`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from diffusers.training_utils import EMAModel
from torch import Tensor

from capo.diffusion.policy import Policy, check_fit
from capo.diffusion.sharding import part_like


class Average:
    """The moving average of a policy's weights.

    At update n > 1 the decay is the smaller of `decay` and n / (n + 9), so the first weights fade quickly;
    the first update copies the weights.
    """

    def __init__(self, policy: Policy, decay: float) -> None:
        self._policy, self._decay = policy, decay
        self.reset()

    def reset(self) -> None:
        """Start from the current weights."""
        weights, foreach = self._policy.parameters().values(), not self._policy.spread
        self._model = EMAModel(weights, decay=self._decay, foreach=foreach)

    def update(self) -> None:
        """Include the weights of one more step."""
        self._model.step(self._policy.parameters().values())

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average in place of the policy's weights."""
        weights = list(self._policy.parameters().values())
        self._model.store(weights)
        try:
            self._model.copy_to(weights)
            yield
        finally:
            self._model.restore(weights)

    def state(self) -> dict[str, Tensor]:
        """Return the averaged weights by name."""
        return dict(zip(self._policy.parameters(), self._model.shadow_params, strict=True))

    def load_state(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Copy a `state()` taken after `step` updates."""
        own = self.state()
        check_fit(tensors, own)
        for name, tensor in own.items():
            tensor.copy_(part_like(tensors[name], tensor))
        self._model.optimization_step = step
