"""Measure the peak memory of tensors."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Peak bytes of all tensors on `device` while `work` runs, including those that existed before.

    CUDA's allocator keeps count. On other devices every operation is watched, which is slow: do not time
    the same call.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device)
    watch = _Watch(device)
    watch.add_present()
    with watch:
        work()
    return watch.peak


def allocated_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Peak bytes of the tensors that `work` itself creates; every operation is watched."""
    with _Watch(device) as watch:
        work()
    return watch.peak


class _Watch(TorchDispatchMode):
    """Adds up tensor storages from the operation that creates them until they are freed.

    Memory that a kernel allocates and frees within one operation is not seen.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self._sizes: dict[int, int] = {}
        self._now = 0
        self.peak = 0

    def add_present(self) -> None:
        """Count the tensors that exist already."""
        for candidate in gc.get_objects():
            # isinstance would read __class__, which makes some objects emit warnings.
            if issubclass(type(candidate), Tensor):
                self._add(candidate)

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        inputs = {_storage(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _storage(leaf) not in inputs:  # not a view, not in place
                self._add(leaf)
        return result

    def _add(self, tensor: Tensor) -> None:
        if tensor.device.type != self._device.type:
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._sizes:
            return
        self._sizes[key] = size
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self._now -= self._sizes.pop(key)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
