"""What calibrating and pairing cost at the paper's size: 100,000 prompts, 16 samples, 3 rewards.

    python benchmarks/method.py [prompts]

prints the seconds of each step and the peak resident memory of the whole process. Measured with
`OMP_NUM_THREADS=1 python benchmarks/method.py` on one core of a shared virtual machine
(torch 2.13, CPU), median of three: Bradley-Terry 0.4 s a reward, power ratio 0.6 s, frontiers
0.4 s; peak 407 MiB, of which 259 MiB are Python, torch and the scores.
"""

import resource
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from capo.method import BradleyTerry, Comparison, PowerRatio, calibrate, select_frontier

SAMPLES = 16


def timed(name: str, step: Callable[[], Tensor]) -> Tensor:
    start = time.perf_counter()
    result = step()
    print(f"{name:<24}{time.perf_counter() - start:8.2f} s")
    return result


def peak_mebibytes() -> float:
    """Peak resident memory so far (Linux counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(prompts: int) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(prompts, SAMPLES, 3, generator=generator, dtype=torch.float64)
    scores[..., 1].sigmoid_()  # the second reward is a probability, as VQAScore is
    comparisons: tuple[Comparison, ...] = (BradleyTerry(), PowerRatio(), BradleyTerry())
    print(f"{prompts:,} prompts x {SAMPLES} samples x 3 rewards, {torch.get_num_threads()} threads")
    print(f"{'before':<24}{peak_mebibytes():8.0f} MiB peak")
    columns = [
        timed(f"calibrate {type(comparison).__name__}", partial(calibrate, scores[..., k], comparison))
        for k, comparison in enumerate(comparisons)
    ]
    rewards = torch.stack(columns, dim=-1)
    chosen = timed("select_frontier", lambda: select_frontier(rewards).chosen)
    print(f"{'after':<24}{peak_mebibytes():8.0f} MiB peak")
    paired = chosen.any(dim=-1)
    size = chosen.sum(dim=-1)[paired].double().mean()
    print(f"{size:.2f} chosen a prompt; {paired.double().mean():.4f} of the prompts have a pair")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
