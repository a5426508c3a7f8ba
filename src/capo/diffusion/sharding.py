"""A network whose weights are spread over processes (FSDP2), and its tensors as wholes and parts."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from capo.recipe import TrainSection


def together() -> bool:
    """Whether this process trains with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def check_shardable(network: Any, section: TrainSection) -> None:
    """Raise `ValueError` for settings that do not go with weights spread over processes."""
    unfit = {
        "train.optimizer adamw-8bit": section.optimizer == "adamw-8bit",
        "train.reference_offload": section.reference_offload,
        "train.reference_dtype bfloat16": section.reference_dtype != "float32",
        "model.compile": network._compiled_call_impl is not None,
    }
    if wrong := [name for name, given in unfit.items() if given]:
        raise ValueError(f"{wrong[0]} does not go with train.sharding fsdp; leave out one of them")


def shard(network: Any) -> None:
    """Leave this process its part of every weight; the others come when a block needs them.

    All processes call this, and run the network together from then on. The parameters are new ones.
    """
    blocks = set(network._no_split_modules or ())
    for module in reversed(list(network.modules())):  # inner blocks first
        if type(module).__name__ in blocks:
            fully_shard(module)
    # Not kept after a forward pass, as is the default for the outermost: the average of the weights may
    # take their place, and the copies would not know.
    fully_shard(network, reshard_after_forward=True)


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that is spread over processes, which all call this; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_like(tensor: Tensor, like: Tensor) -> Tensor:
    """`tensor` on the device of `like`, and spread over the processes as that is."""
    tensor = tensor.to(like.device)
    if not isinstance(like, DTensor):
        return tensor
    if isinstance(tensor, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def gathered(network: Any, kind: Any, keep: bool) -> Any:
    """A network of class `kind` with the whole weights of one that is spread, in main memory.

    All processes call this; those that do not `keep` it get the `network` back.
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
