"""Networks whose weights are spread over processes (FSDP2): whole tensors and parts."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from capo.recipe import TrainSection


def together() -> bool:
    """Report whether this process trains together with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def check_shardable(network: Any, section: TrainSection) -> None:
    """Raise `ValueError` for settings that are incompatible with weights spread over processes."""
    unfit = {
        "train.optimizer adamw-8bit": section.optimizer == "adamw-8bit",
        "train.reference_offload": section.reference_offload,
        "train.reference_dtype bfloat16": section.reference_dtype != "float32",
        "model.compile": network._compiled_call_impl is not None,
    }
    if wrong := [name for name, active in unfit.items() if active]:
        raise ValueError(f"{wrong[0]} is incompatible with train.sharding fsdp; remove one of them")


def shard(network: Any) -> None:
    """Keep only this process's part of every weight; the rest is gathered when a block runs.

    All processes call this and run the network together from then on. It replaces all parameters.
    """
    blocks = set(network._no_split_modules or ())
    for module in reversed(list(network.modules())):  # inner blocks first
        if type(module).__name__ in blocks:
            fully_shard(module)
    # Reshard after every forward pass, unlike the default for the outermost module: the average may replace
    # the weights in between, and gathered copies would be outdated.
    fully_shard(network, reshard_after_forward=True)


def whole(tensor: Tensor) -> Tensor:
    """Return a spread tensor as a whole (all processes call this), or any other tensor unchanged."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return `tensor` on the device of `like`, spread over the processes in the same way."""
    tensor = tensor.to(like.device)
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def gathered(network: Any, kind: Any, keep: bool) -> Any:
    """Return a network of class `kind` with the whole weights of a spread network, in main memory.

    All processes call this; those without `keep` get `network` itself back.
    """
    weights = {}
    for name, tensor in network.state_dict().items():
        full = whole(tensor)
        if keep:
            weights[name] = full.cpu()
    if not keep:
        return network
    with torch.device("meta"):
        plain = kind.from_config(network.config)
    plain.load_state_dict(weights, assign=True)
    return plain
