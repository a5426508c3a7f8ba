"""Work through many prompts in parts."""

import torch
from torch import Tensor

PROMPTS_AT_ONCE = 4096
"""Bounds the memory; chunks that fit the processor's caches are also faster."""


def prompt_chunks(values: Tensor, dimensions: int) -> tuple[Tensor, ...]:
    """Split [*P, ...] along the prompts into parts [P, ...]; a prompt has the last `dimensions`."""
    return torch.split(values.reshape(-1, *values.shape[-dimensions:]), PROMPTS_AT_ONCE)
