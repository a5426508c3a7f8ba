"""Work of the main process alone with a policy whose weights are spread over all processes (FSDP2).

Validation samples images in the main process only, but that process holds only a part of every weight. So
it broadcasts the arguments of every forward pass, and the other processes run the same pass with it.
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


def run_in_main_process(family: Family, policy: Policy, make: Callable[[], T]) -> T:
    """Call `make` in the main process and return its result in all processes.

    All processes call this. `make` may run `family.denoiser`, even if the policy is spread.
    """
    group = Group()
    if not policy.spread:
        return group.broadcast(make)
    if not group.is_main:
        _join_forward_passes(group, family)
        return group.broadcast(make)
    with _forward_passes_announced(group, family):
        result = make()
    group.broadcast(lambda: None)  # no more passes
    return group.broadcast(lambda: result)


@contextmanager
def _forward_passes_announced(group: Group, family: Family) -> Iterator[None]:
    """Broadcast the arguments of every forward pass of the denoiser before it begins."""
    kind = family.device.type

    def announce(module: nn.Module, args: Any, kwargs: Any) -> None:
        group.broadcast(lambda: (_autocast_dtype(kind), *_moved((args, kwargs), "cpu")))

    # Before all other hooks: FSDP's own gathers the weights from the other processes.
    handle = family.denoiser.register_forward_pre_hook(announce, prepend=True, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _join_forward_passes(group: Group, family: Family) -> None:
    """Run every forward pass that the main process announces, until it announces no more."""
    kind = family.device.type
    while (call := group.broadcast(_main_process_decides)) is not None:
        dtype, args, kwargs = _moved(call, family.device)
        with torch.no_grad(), torch.autocast(kind, dtype, enabled=dtype is not None):
            family.denoiser(*args, **kwargs)


def _main_process_decides() -> Any:
    """A placeholder in the other processes: `broadcast` calls its argument in the main process only."""


def _autocast_dtype(kind: str) -> torch.dtype | None:
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _moved(values: Any, device: torch.device | str) -> Any:
    return tree_map(lambda value: value.to(device) if isinstance(value, Tensor) else value, values)
