"""Timing, and what a row of a benchmark holds."""

import gc
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from capo.cost.bench.peak_memory import peak_bytes
from capo.cost.plan.gpus import GPUS

DEVICES = {
    "H200": "h200",
    "H100 PCIe": "h100-pcie",
    "H100": "h100",
    "A100": "a100-80gb",
    "L40S": "l40s",
    "RTX A6000": "a6000",
    "RTX 4090": "rtx4090",
    "RTX 3090": "rtx3090",
}
"""What is in a device's own name → its name in `capo.cost.plan.gpus`; the first that fits counts."""

VARIANTS = {"NVL", "Ti", "D", "Laptop"}
"""Words in the names of devices that are slower or faster than those: their peak is not known here."""

Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One way of doing the work. What was measured is None when it did not fit into memory."""

    name: str
    seconds: float | None = None
    """Median of the repetitions."""
    slowest: float | None = None
    host_seconds: float | None = None
    """Processor time of all threads, by the median: what the host has to do while a GPU computes; on a
    CPU the work itself, however busy the machine is otherwise."""
    per_second: float | None = None
    """Units of the benchmark (pairs, images, prompts) a second, by the median."""
    peak_bytes: int | None = None
    """Of all tensors on the device at once, weights included; None where it is not known."""
    flops: int | None = None
    """Of the denoiser in a repetition; neither recomputed activations nor work beside it count."""
    share_of_peak: float | None = None
    """`flops` a second over the chip's dense bf16 peak; None where that is not known."""
    parameters: int | None = None
    """Trained."""


def measure(
    name: str,
    work: AbstractContextManager[Work],
    device: torch.device,
    *,
    units: int,
    repeats: int,
    flops: int | None = None,
    parameters: int | None = None,
    threads: bool = False,
) -> Row:
    """A row of `work`, done once to warm up, once to find its memory, then `repeats` times on the clock.

    An empty row when the device runs out of memory. The memory of work in several `threads` is known
    on CUDA only.
    """
    try:
        with work as do:
            do()
            memory = peak_bytes(do, device) if device.type == "cuda" or not threads else None
            times = [_timed(do, device) for _ in range(repeats)]
    except RuntimeError as error:
        if not any(isinstance(each, torch.OutOfMemoryError) for each in (error, error.__cause__)):
            raise
        return Row(name, flops=flops, parameters=parameters)
    finally:
        _free(device)
    seconds, host = ([time[place] for time in times] for place in range(2))
    middle, peak = statistics.median(seconds), _peak_flops(device)
    share = None if flops is None or peak is None else flops / middle / peak
    return Row(
        name, middle, max(seconds), statistics.median(host), units / middle, memory, flops, share, parameters
    )


def _timed(do: Work, device: torch.device) -> tuple[float, float]:
    """Seconds on the wall, and of the processor."""
    _wait(device)
    start, host = time.perf_counter(), time.process_time()
    do()
    _wait(device)
    return time.perf_counter() - start, time.process_time() - host


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type != "cpu":
        torch.accelerator.empty_cache()


def _peak_flops(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    return peak_of(torch.cuda.get_device_name(device))


def peak_of(name: str) -> float | None:
    """Dense bf16 FLOP/s of a device by its own name, as `NVIDIA H100 80GB HBM3`; None if not known."""
    if VARIANTS & set(name.split()):
        return None
    return next((GPUS[key].half for part, key in DEVICES.items() if part in name), None)
