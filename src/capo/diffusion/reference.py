"""The frozen reference of a policy: its copy in full fine-tuning, and its digest."""

import copy
import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.hooks import apply_layerwise_casting
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from capo.diffusion.sharding import whole
from capo.recipe import TrainSection


class FrozenCopy:
    """A frozen copy of a float32 denoiser, optionally stored in bfloat16 or in main memory.

    It computes with the numerics of the original. Weights stored in bfloat16 are widened layer by layer; a
    forward pass in bfloat16 rounds the original weights the same way, so the outputs are equal bit for bit.
    """

    def __init__(self, denoiser: Any, section: TrainSection) -> None:
        self.module: Any = copy.deepcopy(denoiser)
        if denoiser._compiled_call_impl is not None:  # lost in the copy
            self.module.compile()
            # Compiled for gradients like the policy, whose code then rounds the same way.
            self.module.requires_grad_(True)
            if section.gradient_checkpointing:
                self.module.enable_gradient_checkpointing()
        if section.reference_dtype == "bfloat16":
            # Not embeddings: a bfloat16 pass does not round them.
            kinds = {"skip_modules_pattern": None, "skip_modules_classes": (nn.Embedding,)}
            apply_layerwise_casting(self.module, torch.bfloat16, torch.float32, **kinds)
        self._kept: dict[str, Tensor] = {}
        if section.reference_offload:
            self._kept = {name: _host(p.data) for name, p in self.module.named_parameters()}
            self._place(self._kept)
        self._device = denoiser.device

    @contextmanager
    def ready(self) -> Iterator[Any]:
        """Yield the module on the device of the original; an offloaded module leaves it afterwards."""
        if self._kept:
            self._place({n: t.to(self._device, non_blocking=True) for n, t in self._kept.items()})
        try:
            yield self.module
        finally:
            if self._kept:
                self._place(self._kept)

    def _place(self, weights: Mapping[str, Tensor]) -> None:
        for name, parameter in self.module.named_parameters():
            parameter.data = weights[name]


def digest(parameters: Mapping[str, Tensor]) -> str:
    """Return a hash of names, dtypes, shapes and bits; 8 GB take about a second on 8 cores."""
    total = hashlib.blake2b(digest_size=16)
    # Tensor by tensor, so several can be hashed at once.
    with ThreadPoolExecutor() as pool:
        # All processes together make spread tensors whole, so they must do it in the same order.
        spread = any(isinstance(parameter, DTensor) for parameter in parameters.values())
        hashed = (map if spread else pool.map)(_bits_digest, parameters.values())
        for (name, parameter), bits in zip(parameters.items(), hashed, strict=True):
            total.update(f"{name}\0{parameter.dtype}\0{tuple(parameter.shape)}\0".encode() + bits)
    return total.hexdigest()


def bit_sums(parameters: Mapping[str, Tensor]) -> list[int]:
    """Return a sum over the bits of each tensor, modulo 2⁶⁴, which takes a tenth of the time of `digest`.

    A tensor with one changed bit has another sum.
    """
    sums = [_whole_numbers(parameter.detach()).sum(dtype=torch.int64) for parameter in parameters.values()]
    found: list[int] = torch.stack(sums).tolist() if sums else []
    return found


def _whole_numbers(tensor: Tensor) -> Tensor:
    flat = tensor.contiguous().flatten()
    if flat.nbytes % 8 == 0 and flat.storage_offset() * flat.itemsize % 8 == 0:
        return flat.view(torch.int64)  # as wide as possible: the narrower types are slower to add
    return flat.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[flat.itemsize])


def _bits_digest(parameter: Tensor) -> bytes:
    bits = whole(parameter.detach()).cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.blake2b(bits.numpy().data, digest_size=16).digest()


def _host(tensor: Tensor) -> Tensor:
    """Return a copy in main memory, page-locked if a GPU will fetch it."""
    copied = tensor.cpu()
    return copied.pin_memory() if tensor.is_cuda else copied
