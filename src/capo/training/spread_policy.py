"""Sampling with a policy whose weights are spread over all processes (FSDP2).

Every process holds only a part of every weight, so no process can sample alone. The main process samples: it
broadcasts the arguments of every forward pass, and the others run the same pass with it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from capo.diffusion.family import Family
from capo.engine.local_executor import LocalExecutor
from capo.engine.ranks import Group
from capo.engine.shard_work import Executor, OnDone, Work, ignore
from capo.recipe import EngineSection

T = TypeVar("T")


class SpreadExecutor:
    """Makes shards in the main process, while all others join its forward passes; `held` is the family."""

    def __init__(self, executor: Executor) -> None:
        """`executor` reaches the other processes."""
        self._executor = executor

    def run(self, work: Work, shards: Sequence[int], on_done: OnDone = ignore, *, held: Any = None) -> None:
        """Make all `shards`."""
        group = Group()
        self._executor.call_all(join_forward_passes)
        with _forward_passes_announced(group, held):
            LocalExecutor().run(work, shards, on_done, held=held)
        group.broadcast(lambda: None)  # no more passes

    def call_all(self, function: Callable[[Executor, Any], None], shares: int = 1) -> bool:
        """Let all other processes call a function."""
        return self._executor.call_all(function, shares)

    def in_main(self, make: Callable[[], T], *, held: Any = None) -> T:
        """Call `make` in the main process and return its result in all processes."""
        return self._executor.in_main(make, held=held)

    def free_memory(self, engine: EngineSection) -> int:
        """Return the bytes that every process has free."""
        return self._executor.free_memory(engine)


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


def join_forward_passes(executor: Executor, family: Family) -> None:
    """Run every forward pass that the main process announces, until it announces no more."""
    group, kind = Group(), family.device.type
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
