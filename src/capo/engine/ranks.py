"""What the processes of a training run say to each other.

They all take the same steps, each on its share of a batch, and decide the same from the same numbers;
only the leading one writes. Alone, a process says everything to itself.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from capo.engine.launch import LaunchError, Processes, processes

TIMEOUT = timedelta(days=1)
"""How long a process waits for the others: the leading one validates while they do."""
BUCKET = 1 << 28
"""Bytes of gradients that are exchanged at once."""

T = TypeVar("T")


class Group:
    """The processes of this training run, this one among them."""

    def __init__(self) -> None:
        started = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if started else 0
        self.size = dist.get_world_size() if started else 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, pairs: int) -> slice:
        """Which of `pairs` are this process's; `ValueError` when they cannot be shared evenly."""
        if pairs % self.size:
            raise ValueError(
                f"train.global_batch_size: {pairs} pairs cannot be shared evenly by {self.size} processes"
            )
        own = pairs // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def broadcast(self, make: Callable[[], T]) -> T:
        """What `make` gives in the leading process, in all of them."""
        values: list[Any] = [make() if self.is_main else None]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        value: T = values[0]
        return value

    def gather(self, own: Tensor) -> Tensor:
        """The tensors [B] or [M, B] of all processes side by side, in their order."""
        if self.size == 1:
            return own
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts, dim=-1)

    def gather_lists(self, own: list[T]) -> list[T]:
        """The lists of all processes as one, in their order."""
        lists: list[Any] = [own] * self.size
        if self.size > 1:
            dist.all_gather_object(lists, own)
        return [each for one in lists for each in one]

    def barrier(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(1))

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Take the mean over the processes, in place and bucket by bucket."""
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
    """Within, the processes of this command know each other; `device` is `engine.device`.

    Each takes a GPU of its own. Raises `LaunchError` when there are too few, or `device` names one.
    A process that fails within leaves at once, so that the launcher sees it and stops the others.
    """
    own = processes()
    if own.size == 1 or dist.is_initialized():
        yield Group()
        return
    _take_device(own, device)
    if not own.is_main:
        os.environ["CAPO_QUIET"] = "1"
    store, _, _ = next(rendezvous("env://"))
    dist.init_process_group(store=store, rank=own.rank, world_size=own.size, timeout=TIMEOUT)
    yield Group()
    # No connection is closed from which another process may still read. All of this waits for the others,
    # who may in turn be waiting for a process that failed: so it is no clean-up for errors.
    store.set(f"left/{own.rank}", "")
    store.wait([f"left/{rank}" for rank in range(own.size)], TIMEOUT)
    dist.destroy_process_group()


def _take_device(own: Processes, device: str) -> None:
    if ":" in device:
        raise LaunchError(
            f"engine.device: {device} would be the device of all {own.size} processes; give `cuda`, and each "
            "takes its own"
        )
    if device == "cpu" or not torch.cuda.is_available():
        return
    if own.local_rank >= torch.cuda.device_count():
        raise LaunchError(
            f"{torch.cuda.device_count()} GPUs here, and more processes than that; lower --nproc-per-node"
        )
    torch.cuda.set_device(own.local_rank)


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients of one dtype together, at most `BUCKET` bytes unless a single one has more."""
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
