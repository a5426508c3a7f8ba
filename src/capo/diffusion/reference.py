"""The frozen model that a policy is compared with: its copy in full fine-tuning, and its identity."""

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
    """A copy of a float32 denoiser that never learns; it may be kept narrower, or elsewhere.

    It computes with the very numerics of the original. Weights kept in bfloat16 are widened again
    layer by layer; where the forward passes are in bfloat16, these round them alike, so that not a
    bit of the answer changes.
    """

    def __init__(self, denoiser: Any, section: TrainSection) -> None:
        self.module: Any = copy.deepcopy(denoiser)
        if denoiser._compiled_call_impl is not None:  # lost in the copy
            self.module.compile()
        if section.reference_dtype == "bfloat16":
            # Embeddings are left out: a bfloat16 pass does not round them.
            kinds = {"skip_modules_pattern": None, "skip_modules_classes": (nn.Embedding,)}
            apply_layerwise_casting(self.module, torch.bfloat16, torch.float32, **kinds)
        self._kept: dict[str, Tensor] = {}
        if section.reference_offload:
            self._kept = {name: _host(p.data) for name, p in self.module.named_parameters()}
            self._place(self._kept)
        self._device = denoiser.device

    @contextmanager
    def ready(self) -> Iterator[Any]:
        """The module, on the device of the original; an offloaded one only within."""
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
    """A hash of names, types, shapes and bits; about a second for 8 GB on 8 cores."""
    total = hashlib.blake2b(digest_size=16)
    # Each tensor by itself, so that several can be hashed at once.
    with ThreadPoolExecutor() as pool:
        # Those that are spread are made whole by all processes, which must come to them in one order.
        spread = any(isinstance(parameter, DTensor) for parameter in parameters.values())
        hashed = (map if spread else pool.map)(_bits_digest, parameters.values())
        for (name, parameter), bits in zip(parameters.items(), hashed, strict=True):
            total.update(f"{name}\0{parameter.dtype}\0{tuple(parameter.shape)}\0".encode() + bits)
    return total.hexdigest()


def _bits_digest(parameter: Tensor) -> bytes:
    bits = whole(parameter.detach()).cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.blake2b(bits.numpy().data, digest_size=16).digest()


def _host(tensor: Tensor) -> Tensor:
    """A copy in main memory, page-locked where a GPU will fetch it."""
    copied = tensor.cpu()
    return copied.pin_memory() if tensor.is_cuda else copied
