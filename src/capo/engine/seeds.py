"""Randomness as a pure function of a key, never of history.

Every random choice draws from a generator of its own, seeded by what the choice is about; so
neither batch size, nor the order of prompts, nor resuming changes a result.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def stable_seed(*key: str | int) -> int:
    """A seed in [0, 2⁶³) that depends on `key` alone: `stable_seed("sample", 0, prompt_id, 3)`.

    The same on every machine, in every process and for every `PYTHONHASHSEED`. Text and numbers
    are told apart (`"1"` is not `1`), and so are the borders between the parts of the key.
    """
    canonical = json.dumps(key, separators=(",", ":"), ensure_ascii=True)
    digest = hashlib.blake2b(canonical.encode("ascii")).digest()
    return int.from_bytes(digest[:8], "big") & (2**63 - 1)


def sample_seed(run_seed: int, prompt_id: str, sample: int) -> int:
    """Of the initial noise of a training sample, by its address."""
    return stable_seed("sample", run_seed, prompt_id, sample)


def initial_noise(seed: int, shape: Sequence[int]) -> "torch.Tensor":
    """Standard normal float32 noise of `shape`, drawn on the CPU from a generator of its own.

    Drawing on the CPU makes it the same whatever device it then moves to, and recoverable later
    from the seed.
    """
    import torch

    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32)
