"""Where models run, what outlives a run, and how loudly the libraries speak while they load."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from capo.recipe import EngineSection

if TYPE_CHECKING:
    import torch

_CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Where Linux tells the limit of memory, in either version of its control groups."""


def device(engine: EngineSection) -> "torch.device":
    """The device that `engine.device` names, with torch's threads set to `engine.threads`.

    `auto` is the first of CUDA, MPS and CPU that is there. Raises `ValueError` for a device that
    torch does not know or that this machine does not have.
    """
    import torch

    if engine.threads is not None:
        torch.set_num_threads(engine.threads)
    if engine.device == "auto":
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return _repeatable(torch.device(best))
    try:
        wanted = torch.device(engine.device)
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError) as error:
        # torch.empty fails where torch or the machine lacks the device.
        reason = str(error).splitlines()[0]
        raise ValueError(f"engine.device: {engine.device!r} cannot be used here: {reason}") from None
    return _repeatable(wanted)


def device_name(engine: EngineSection) -> str:
    """The device that `engine.device` means here, a GPU by its own name: `cpu`, `NVIDIA H100 80GB HBM3`."""
    return kind_of(device(engine))


def kind_of(device: "torch.device") -> str:
    """A GPU's own name, of any other device that of torch."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _repeatable(chosen: "torch.device") -> "torch.device":
    """Ask CUDA for algorithms that give the same bits on every run; torch warns where it has none."""
    import torch

    if chosen.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Nothing reads what it has not written; filling all new memory would cost bandwidth.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return chosen


@contextmanager
def memory_bounded_by(setting: str) -> Iterator[None]:
    """Within, running out of the device's memory is an error that says which setting to lower."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RuntimeError(
            f"the device ran out of memory; lower {setting} and give the same command again: what is "
            "finished is kept"
        ) from error


def release_memory() -> None:
    """Give back to the device what torch keeps of it without using it."""
    import torch

    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def cache_folder() -> Path:
    """Where what outlives a run is kept: `$CAPO_CACHE`, else `capo` in the user's cache folder."""
    if chosen := os.environ.get("CAPO_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "capo"


def main_memory() -> int:
    """Bytes of main memory that this process may have: the machine's, or its container's limit."""
    import psutil

    limits = [psutil.virtual_memory().total]
    for path in _CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # `max`: no limit
            limits.append(int(path.read_text()))
    return min(limits)


def free_memory(engine: EngineSection) -> int:
    """Bytes that are free now on the device that `engine.device` means; main memory where it shares that."""
    import psutil
    import torch

    chosen = device(engine)
    if chosen.type == "cuda":
        return torch.cuda.mem_get_info(chosen)[0]
    return min(psutil.virtual_memory().available, main_memory())


@contextmanager
def quiet() -> Iterator[None]:
    """Within, diffusers and transformers show no progress bars and only errors."""
    # transformers first: importing diffusers makes it speak.
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    from diffusers.utils import logging as diffusers_logging

    libraries = (transformers_logging, diffusers_logging)
    levels = (level, diffusers_logging.get_verbosity())
    bars = [library.is_progress_bar_enabled() for library in libraries]
    try:
        for library in libraries:
            library.set_verbosity(logging.ERROR)
            library.disable_progress_bar()
        yield
    finally:
        for library, verbosity, shown in zip(libraries, levels, bars, strict=True):
            library.set_verbosity(verbosity)
            if shown:
                library.enable_progress_bar()
