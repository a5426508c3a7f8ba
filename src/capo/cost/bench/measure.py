"""Time a piece of work and find its peak memory."""

import gc
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from capo.cost.gpus import peak_of
from capo.cost.peak_memory import peak_bytes

Work = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One way to do the work."""

    name: str
    work: AbstractContextManager[Work]
    """Sets up and yields the function to time."""
    units: int
    """Pairs, images or prompts that one call processes."""
    device: torch.device
    effort: Callable[[], tuple[int, int]] | None = None
    """Counts the denoiser's FLOPs per call and the trained parameters."""
    threads: bool = False
    """True if the work runs in several threads, whose memory is known only on CUDA."""


@dataclass(frozen=True)
class Row:
    """Results of one case. Measured values are None if the work ran out of memory."""

    name: str
    seconds: float | None = None
    """Median of the repetitions."""
    slowest: float | None = None
    host_seconds: float | None = None
    """Processor time of all threads, median. With a GPU it is the cost of keeping the GPU busy; on a CPU
    it is the work itself, regardless of other load."""
    per_second: float | None = None
    """Units of the benchmark (pairs, images, prompts) per second, from the median."""
    peak_bytes: int | None = None
    """Peak of all tensors on the device, weights included; None if unknown."""
    flops: int | None = None
    """FLOPs of the denoiser per repetition, without recomputed activations and other work."""
    share_of_peak: float | None = None
    """`flops` per second over the chip's dense bf16 peak; None if the peak is unknown."""
    parameters: int | None = None
    """Trained parameters."""


def measure(case: Case, repeats: int) -> Row:
    """Call the work once to warm up, once to find its memory, then `repeats` times to time it.

    Returns a row without measurements if the device runs out of memory.
    """
    device = case.device
    flops, parameters = case.effort() if case.effort else (None, None)
    try:
        with case.work as do:
            do()
            memory = peak_bytes(do, device) if device.type == "cuda" or not case.threads else None
            times = [_timed(do, device) for _ in range(repeats)]
    except RuntimeError as error:
        if not any(isinstance(raised, torch.OutOfMemoryError) for raised in (error, error.__cause__)):
            raise
        return Row(case.name, flops=flops, parameters=parameters)
    finally:
        _free(device)
    seconds, host_seconds = zip(*times, strict=True)
    median, peak = statistics.median(seconds), _peak_flops(device)
    return Row(
        name=case.name,
        seconds=median,
        slowest=max(seconds),
        host_seconds=statistics.median(host_seconds),
        per_second=case.units / median,
        peak_bytes=memory,
        flops=flops,
        share_of_peak=None if flops is None or peak is None else flops / median / peak,
        parameters=parameters,
    )


def _timed(do: Work, device: torch.device) -> tuple[float, float]:
    """Wall-clock seconds and processor seconds of one call."""
    _synchronize(device)
    start, host = time.perf_counter(), time.process_time()
    do()
    _synchronize(device)
    return time.perf_counter() - start, time.process_time() - host


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type != "cpu":
        torch.accelerator.empty_cache()


def _peak_flops(device: torch.device) -> float | None:
    return peak_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
