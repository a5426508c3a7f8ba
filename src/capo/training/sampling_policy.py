"""What the leading process does alone with a policy that is spread over all (FSDP2).

Sampling for a validation runs the network again and again, but each process has only a part of it. So
whenever the leading one is about to, it tells the others with what, and they run theirs beside it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from capo.diffusion.family import Family
from capo.diffusion.policy import Policy
from capo.engine.ranks import Group

T = TypeVar("T")


def led(group: Group, family: Family, policy: Policy, make: Callable[[], T]) -> T:
    """What `make` gives in the leading process, in all of them; the others lend their parts meanwhile."""
    if not policy.spread:
        return group.broadcast(make)
    if not group.is_main:
        _lend(group, family)
        return group.broadcast(make)
    with _announced(group, family):
        made = make()
    group.broadcast(lambda: None)
    return group.broadcast(lambda: made)


@contextmanager
def _announced(group: Group, family: Family) -> Iterator[None]:
    """Within, the others are told of every forward pass before it begins."""
    kind = family.device.type

    def announce(module: nn.Module, args: Any, kwargs: Any) -> None:
        group.broadcast(lambda: (_autocast(kind), *_moved((args, kwargs), "cpu")))

    # First of all hooks: FSDP's own asks the others for their parts.
    handle = family.denoiser.register_forward_pre_hook(announce, prepend=True, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _lend(group: Group, family: Family) -> None:
    kind = family.device.type
    while (call := group.broadcast(_listen)) is not None:
        dtype, args, kwargs = _moved(call, family.device)
        with torch.no_grad(), torch.autocast(kind, dtype, enabled=dtype is not None):
            family.denoiser(*args, **kwargs)


def _listen() -> Any:
    """Of the others, what the leading process is told."""


def _autocast(kind: str) -> torch.dtype | None:
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _moved(values: Any, device: torch.device | str) -> Any:
    return tree_map(lambda value: value.to(device) if isinstance(value, Tensor) else value, values)
