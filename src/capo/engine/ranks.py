"""The processes of a launch, and their communication while they train.

In training, all processes take the same steps, each on its share of a batch, and make the same decisions from
the same numbers. A single process needs no communication.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from capo.engine.heartbeat import heartbeats
from capo.engine.launch import LaunchError, Processes, processes
from capo.engine.lifeline import lifeline

TIMEOUT = timedelta(days=1)
"""The longest wait for another process. One that was stopped is detected sooner, by its heartbeats."""
BUCKET = 1 << 28
"""Bytes of gradients that are exchanged in one call."""

T = TypeVar("T")


class Group:
    """The processes of this training run, seen from one of them."""

    joined: "ClassVar[Group | None]" = None
    """The processes that this one has joined."""

    def __init__(self, store: Any = None) -> None:
        self.store = store
        """The launch's store, in what `join_processes` yields."""
        started = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if started else 0
        self.size = dist.get_world_size() if started else 1

    @property
    def is_main(self) -> bool:
        """True for the process that writes."""
        return self.rank == 0

    def share(self, pairs: int) -> slice:
        """Return the slice of `pairs` for this process; raises `ValueError` if they do not divide evenly."""
        if pairs % self.size:
            raise ValueError(
                f"train.global_batch_size: {pairs} pairs do not divide evenly between {self.size} processes"
            )
        own = pairs // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def broadcast(self, make: Callable[[], T]) -> T:
        """Call `make` in the main process and return its result in all of them."""
        values: list[Any] = [make() if self.is_main else None]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        value: T = values[0]
        return value

    def gather(self, own: Tensor) -> Tensor:
        """Concatenate the tensors [B] or [M, B] of all processes along the last dimension, in rank order."""
        if self.size == 1:
            return own
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts, dim=-1)

    def gather_lists(self, own: list[T]) -> list[T]:
        """Concatenate the lists of all processes, in rank order."""
        lists: list[Any] = [own] * self.size
        if self.size > 1:
            dist.all_gather_object(lists, own)
        return [item for part in lists for item in part]

    def barrier(self) -> None:
        """Wait until all processes have called this."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(1))

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Replace gradients by their mean over the processes."""
        for bucket in _buckets(gradients if self.size > 1 else ()):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            flat /= self.size
            means = flat.split([gradient.numel() for gradient in bucket])
            torch._foreach_copy_(
                bucket, [mean.view_as(gradient) for mean, gradient in zip(means, bucket, strict=True)]
            )


@contextmanager
def join_processes(device: str) -> Iterator[Group]:
    """Connect the processes of this command; each takes a GPU of its own. `device` is `engine.device`.

    Raises `LaunchError` if there are fewer GPUs than processes, or if `device` names one of them. If a
    process fails inside the context, is killed or stopped, the others end too, and the main one names it.
    """
    process = processes()
    if process.size == 1 or Group.joined is not None:
        yield Group.joined or Group()
        return
    _take_device(process, device)
    if not process.is_main:
        os.environ["CAPO_QUIET"] = "1"
    store, _, _ = next(rendezvous("env://"))
    dist.init_process_group(store=store, rank=process.rank, world_size=process.size, timeout=TIMEOUT)
    host = os.environ["MASTER_ADDR"]
    with (
        heartbeats(store, process.rank, process.size),
        lifeline(store, process.rank, process.size, host),
    ):
        Group.joined = Group(store)
        yield Group.joined
        # Wait for the others, which may still read from this process's connections. After an error they might
        # wait for a process that failed, so this is not in a `finally`.
        store.set(f"left/{process.rank}", "")
        store.wait([f"left/{rank}" for rank in range(process.size)], TIMEOUT)
    Group.joined = None
    dist.destroy_process_group()


def _take_device(process: Processes, device: str) -> None:
    if ":" in device:
        raise LaunchError(
            f"engine.device: {device} would be the device of all {process.size} processes; use `cuda`, which "
            "gives every process its own GPU"
        )
    if device == "cpu" or not torch.cuda.is_available():
        return
    if process.local_rank >= torch.cuda.device_count():
        raise LaunchError(
            f"this machine has {torch.cuda.device_count()} GPUs but more processes; lower --nproc-per-node"
        )
    torch.cuda.set_device(process.local_rank)


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Group gradients of one dtype into buckets of at most `BUCKET` bytes, or of a single larger one."""
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        if bucket and (size + gradient.nbytes > BUCKET or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.nbytes
    if bucket:
        yield bucket
