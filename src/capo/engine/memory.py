"""Memory of the device and of the machine: how much is free, and what to do when it runs out."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from capo.engine.device import select_device
from capo.recipe import EngineSection

_CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Files in which Linux states a container's memory limit, for both versions of control groups."""


def main_memory() -> int:
    """Return the bytes of main memory this process may use: the machine's, or its container's limit."""
    import psutil

    limits = [psutil.virtual_memory().total]
    for path in _CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # `max` means no limit
            limits.append(int(path.read_text()))
    return min(limits)


def free_main_memory() -> int:
    """Return the bytes of main memory that are free for this process."""
    import psutil

    own = psutil.Process().memory_info().rss
    return max(0, min(psutil.virtual_memory().available, main_memory() - own))


def free_memory(engine: EngineSection) -> int:
    """Return the bytes that are free on the device of `engine`; main memory where the device shares it."""
    import torch

    device = select_device(engine)
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_main_memory()


def release_memory() -> None:
    """Return the memory that torch caches on the device but does not use."""
    import torch

    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


@contextmanager
def explain_out_of_memory(setting: str) -> Iterator[None]:
    """Turn an out-of-memory error into one that names the recipe `setting` to lower."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        memory = "main memory" if isinstance(error, MemoryError) else "the device's memory"
        raise RuntimeError(
            f"{memory} ran out; lower {setting} and rerun the same command: finished work is kept"
        ) from error


def return_freed_memory() -> None:
    """Return memory that this process has freed to the system, which glibc keeps; do nothing elsewhere."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
