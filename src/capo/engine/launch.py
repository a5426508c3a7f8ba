"""The processes that one command was started as, as `torchrun` and `accelerate launch` tell them.

Both set `WORLD_SIZE`, `RANK` and `LOCAL_RANK` in the environment of each process; without them there is
one process. What would let processes that were meant to train together train each alone is refused.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LAUNCHER = "torchrun --nproc-per-node {} -m --"

COMMAND = f"{LAUNCHER.format(8)} capo train RECIPE --run DIR"

PROMISES = ("MASTER_ADDR", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
"""Set by launchers that start several processes, or say that they do."""

FOREIGN = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}
"""Ways of training that `accelerate launch` may ask for and that are not there."""


class LaunchError(ValueError):
    """A way of starting processes in which they would not train together."""


@dataclass(frozen=True)
class Processes:
    """One process among those of a command: `rank` of `size`, and its place on its own machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0


def processes(environment: Mapping[str, str] = os.environ) -> Processes:
    """The processes of this command."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "WORLD_SIZE" not in environment:
        return Processes()
    try:
        return Processes(*(int(environment[name]) for name in names))
    except (KeyError, ValueError):
        told = ", ".join(f"{name}={environment.get(name)}" for name in names)
        raise LaunchError(f"the launcher told {told}; start with `{COMMAND}`") from None


def resume_command(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> str:
    """How to give the command `capo ARGUMENTS` once more, launched with as many processes a machine."""
    command = shlex.join(["capo", *arguments])
    if "WORLD_SIZE" not in environment:
        return command
    here = environment.get("LOCAL_WORLD_SIZE", environment["WORLD_SIZE"])
    return f"{LAUNCHER.format(here)} {command}"


def check_launch(sharding: str, environment: Mapping[str, str] = os.environ) -> None:
    """Raise `LaunchError` for a launch to train whose processes would not do so together.

    `sharding` is `train.sharding`. `accelerate launch --cpu --num_processes 2`, for one, starts a single
    process, and a launcher that knows nothing of torch starts several that know nothing of each other.
    """
    promised = [f"{name}={environment[name]}" for name in PROMISES if environment.get(name, "1") != "1"]
    if promised and "WORLD_SIZE" not in environment:
        raise LaunchError(
            f"{', '.join(promised)} speaks of several processes, but this one was told of no other: it would "
            f"train alone. Start with `{COMMAND}`, or unset {promised[0].partition('=')[0]}"
        )
    for name, what in FOREIGN.items():
        if environment.get(name) == "true":
            raise LaunchError(
                f"accelerate asks for {what}, which is not supported; take train.sharding: fsdp"
            )
    if environment.get("ACCELERATE_USE_FSDP") == "true" and sharding != "fsdp":
        raise LaunchError(
            f"accelerate asks for FSDP, but train.sharding is {sharding}; set train.sharding=fsdp, which "
            "decides here"
        )
    precision = environment.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", ""):
        raise LaunchError(
            f"accelerate asks for mixed precision {precision}, which would have no effect: train.dtype "
            "decides; launch with --mixed_precision no"
        )
