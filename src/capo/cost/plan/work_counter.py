"""Count what work costs: its FLOPs, and on the `meta` device its bytes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from capo.cost.peak_memory import allocated_bytes
from capo.cost.plan.weightless import META


@dataclass(frozen=True)
class Count:
    """Cost of some work on the `meta` device."""

    flops: int
    """Matrix products, convolutions and attention; a multiply-add counts as two."""
    bytes: int
    """Peak of the tensors that the work creates."""


def count(work: Callable[[], object]) -> Count:
    """Count the FLOPs and bytes of `work`, which runs once."""
    counter = _Flops()

    def counted() -> object:
        with counter:
            return work()

    return Count(bytes=allocated_bytes(counted, META), flops=counter.total)


def count_flops(work: Callable[[], object]) -> int:
    """Count the FLOPs of `work`, as in `Count`."""
    with _Flops() as counter:
        work()
    return counter.total


class _Flops(TorchDispatchMode):
    """Adds up FLOPs by torch's own formulas.

    torch's `FlopCounterMode` also attributes them to modules, which is slow and keeps tensors alive that
    would be freed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if operation._overloadpacket in flop_registry:
            result = operation(*args, **kwargs)
            formula = flop_registry[operation._overloadpacket]
            self.total += int(formula(*args, **kwargs, out_val=result))
            return result
        if torch.is_inference_mode_enabled():  # where composed operations arrive whole
            with self:
                result = operation.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return operation(*args, **kwargs)
