"""Randomness as a pure function of a key, never of history.

Every random choice draws from its own generator, seeded by the subject of the choice. So neither the batch
size, nor the order of prompts, nor resuming changes a result.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def stable_seed(*key: str | int) -> int:
    """Return a seed in [0, 2⁶³) that depends on `key` alone: `stable_seed("sample", 0, prompt_id, 3)`.

    It is the same on every machine, in every process and for every `PYTHONHASHSEED`. Text differs from
    numbers (`"1"` is not `1`), and `("a", "b")` from `("ab",)`.
    """
    canonical = json.dumps(key, separators=(",", ":"), ensure_ascii=True)
    digest = hashlib.blake2b(canonical.encode("ascii")).digest()
    return int.from_bytes(digest[:8], "big") & (2**63 - 1)


def sample_key(run_seed: int) -> tuple[str, int]:
    """Return the beginning of the keys of all training samples of a run or round."""
    return ("sample", run_seed)


def sample_seed(run_seed: int, prompt_id: str, sample: int) -> int:
    """Return the seed of the initial noise of a training sample, given its address."""
    return stable_seed(*sample_key(run_seed), prompt_id, sample)


def initial_noise(seed: int, shape: Sequence[int]) -> "torch.Tensor":
    """Return standard normal float32 noise of `shape`, drawn on the CPU.

    So it is the same for every device, and can be recovered later from the seed.
    """
    import torch

    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32)
