"""Selecting the device that models run on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from capo.recipe import EngineSection

if TYPE_CHECKING:
    import torch


def select_device(engine: EngineSection) -> "torch.device":
    """Return the device that `engine.device` names, and set torch's threads to `engine.threads`.

    `auto` is the first available one of CUDA, MPS and CPU. Raises `ValueError` for a device that torch does
    not know or that this machine does not have.
    """
    import torch

    if engine.threads is not None:
        torch.set_num_threads(engine.threads)
    if engine.device == "auto":
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return _make_deterministic(torch.device(best))
    try:
        device = torch.device(engine.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        # torch.empty fails where torch or the machine lacks the device.
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"engine.device: {engine.device!r} is not available on this machine: {reason}"
        ) from None
    return _make_deterministic(device)


def device_name(device: "torch.device") -> str:
    """Return a GPU's product name, such as `NVIDIA H100 80GB HBM3`, or torch's name of any other device."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch in one thread, for many short operations.

    The threads of OpenMP spin while they wait for each other. On a busy machine that costs more than a second
    thread gains.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _make_deterministic(device: "torch.device") -> "torch.device":
    """Ask CUDA for algorithms that give the same bits on every run; torch warns where it has none."""
    import torch

    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
        torch.use_deterministic_algorithms(True, warn_only=True)
        # No code of ours reads memory before writing it; filling all new memory would cost bandwidth.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return device
